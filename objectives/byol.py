"""BYOL (Grill et al. 2020, "Bootstrap Your Own Latent", section 3).

Input:   one augmented view of a picture, through the encoder, a projector and a predictor.
Target:  what a momentum copy of encoder and projector makes of the other view. There are no negatives.

Shapes: b pictures on this rank, D encoder width, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.spec import DataSpec
from models.encoder import Encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.photometry import byol_colours
from objectives.projector import projector
from objectives.schedule import cosine
from objectives.simclr import at_least_float32
from objectives.teacher import Teacher
from objectives.two_views import TwoViews
from objectives.views import Crops, CropScale
from ranges import Count, Share


class BYOL(Objective):
    """BYOL.

    Args:
        encoder: any image encoder; its pooled features enter the projector.
        spec: the opened data set.
        momentum: share of its own weights that the copy keeps, at the beginning; at the end of the budget it is 1 (paper:
            0.996 for 1,000 ImageNet epochs; its code: 0.99 for 100 and 300, 0.97 for 40).
        projector_width, embedding_width: projector and predictor, two layers each with batch norm between them.
        crop_scale: area range of the random resized crop.
        view_size: side of the views in pixels; by default the image size.
    """

    modality = "image"
    needs = ("views",)
    smallest_batch = 2

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        momentum: Share = 0.996,
        projector_width: Count = 4096,
        embedding_width: Count = 256,
        crop_scale: CropScale = (0.08, 1.0),
        view_size: Count | None = None,
    ):
        super().__init__(encoder)
        self.momentum = momentum
        self.two_views = TwoViews(encoder, spec, crop_scale, view_size, byol_colours(spec.image_size))
        self.projector = projector([encoder.width, projector_width, embedding_width])
        self.predictor = projector([embedding_width, projector_width, embedding_width])
        self.teacher = Teacher(encoder, self.projector)

    def views(self) -> Crops:
        return self.two_views.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        first, second = (self.encoder.normalise(view) for view in self.two_views(batch, draw))
        features = [self.encoder.embed(view) for view in (first, second)]
        one_bE, other_bE = (self.predictor(self.projector(feature_bD)) for feature_bD in features)
        loss = regression(one_bE, self.teacher(second)) + regression(other_bE, self.teacher(first))
        return Outcome(loss, {"feature_std": feature_std(features[0])})

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, cosine(self.momentum, 1.0, progress))

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return self.two_views.pictures(batch, draw)


def regression(predicted_bE: Tensor, target_bE: Tensor) -> Tensor:
    """Squared distance between normalised vectors (equation 2), the mean over the batch, in float32; from 0 to 4."""
    with torch.autocast(predicted_bE.device.type, enabled=False):
        predicted_bE, target_bE = (F.normalize(at_least_float32(x), dim=1) for x in (predicted_bE, target_bE))
        return (predicted_bE - target_bE).square().sum(dim=1).mean()
