"""Triplets (Schroff et al. 2015, "FaceNet", section 3; hardest negatives in the batch: Hermans et al. 2017, section 2).

Anchor:    one augmented view of a picture.
Positive:  the other view of the same picture.
Negative:  of all views of other pictures in the batch, on all ranks, the one that lies nearest to the anchor.

Shapes: b pictures on this rank, B on all ranks, D encoder width, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.spec import DataSpec
from models.encoder import Encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.gather import first_own_row, gather_candidates
from objectives.objective import Batch, Objective, Outcome
from objectives.photometry import simclr_colours
from objectives.projector import projector
from objectives.simclr import at_least_float32
from objectives.two_views import TwoViews
from objectives.views import Crops, CropScale
from ranges import Count, NotNegative


class Triplet(Objective):
    """Triplets.

    Args:
        encoder: any image encoder; its pooled features enter the projector.
        spec: the opened data set.
        margin: by which the negative should be farther away than the positive; distances lie between 0 and 2.
        projector_width, embedding_width: the projector, two layers with batch norm in each, as SimCLR's.
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
        margin: NotNegative = 0.5,
        projector_width: Count = 2048,
        embedding_width: Count = 128,
        crop_scale: CropScale = (0.08, 1.0),
        view_size: Count | None = None,
    ):
        super().__init__(encoder)
        self.margin = margin
        self.two_views = TwoViews(encoder, spec, crop_scale, view_size, simclr_colours(spec.image_size))
        self.projector = projector([encoder.width, projector_width, embedding_width], last_norm="scale")

    def views(self) -> Crops:
        return self.two_views.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        images = self.encoder.normalise(torch.cat(self.two_views(batch, draw)))
        features = self.encoder.embed(images)
        loss, accuracy = hardest_triplets(*self.projector(features).chunk(2), self.margin)
        return Outcome(loss, {"accuracy": accuracy, "feature_std": feature_std(features.chunk(2)[0])})

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return self.two_views.pictures(batch, draw)


def hardest_triplets(first_bE: Tensor, second_bE: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Hinge on (distance to the positive - distance to the hardest negative + margin), averaged over 2b anchors.

    Distances are Euclidean between normalised vectors, in float32 whatever the autocast precision.

    Shape: first_bE, second_bE (b, E), the two views in the same order, not yet normalised; b >= 2 over all ranks.

    Returns:
        (loss, accuracy): scalars; accuracy is the share of anchors whose positive is nearer than any negative, detached.
    """
    with torch.autocast(first_bE.device.type, enabled=False):
        views = [F.normalize(at_least_float32(view), dim=1) for view in (first_bE, second_bE)]
        anchors, positives = torch.cat(views), torch.cat(views[::-1])  # (2b, E)
        candidates = torch.cat([gather_candidates(view) for view in views])  # (2B, E)
        total = len(candidates) // 2
        own = (torch.arange(len(first_bE), device=anchors.device) + first_own_row(len(first_bE))).repeat(2)
        picture = torch.arange(2 * total, device=anchors.device) % total  # of every candidate
        similarity = (anchors.detach() @ candidates.detach().T).masked_fill(picture == own[:, None], float("-inf"))
        negatives = candidates[similarity.argmax(dim=1)]
        near, far = distance(anchors, positives), distance(anchors, negatives)
        return F.relu(near - far + margin).mean(), (near < far).float().mean()


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean, with a gradient of zero where both are the same."""
    squared = (one - other).square().sum(dim=1)
    return torch.where(squared > 0, squared.clamp(min=1e-12).sqrt(), squared)
