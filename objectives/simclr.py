"""SimCLR (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations", sections 2 and 4).

Anchor:     one augmented view of a picture.
Positive:   the other view of the same picture.
Negatives:  all other views in the batch, on all ranks.

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
from objectives.two_views import TwoViews
from objectives.views import Crops, CropScale
from ranges import Count, NotNegative, Positive, Share


class SimCLR(Objective):
    """SimCLR.

    Args:
        encoder: any image encoder; its pooled features enter the projector.
        spec: the opened data set.
        temperature: of the softmax over candidates (paper: 0.1 on ImageNet, 0.5 on CIFAR).
        projector_width, embedding_width, projector_depth: the projector; batch norm in every layer, the last without a shift
            and without ReLU (the authors' code).
        crop_scale: area range of the random resized crop.
        view_size: side of the views in pixels; by default the image size. Smaller views cost less; only encoders that
            take any size can read them.
        colour_strength: s of the colour jitter; by default 1, or 0.5 for pictures up to 64 px.
        blur: probability; by default 0.5, or 0 for pictures up to 64 px.
    """

    modality = "image"
    needs = ("views",)
    smallest_batch = 2

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        temperature: Positive = 0.5,
        projector_width: Count = 2048,
        embedding_width: Count = 128,
        projector_depth: Count = 2,
        crop_scale: CropScale = (0.08, 1.0),
        view_size: Count | None = None,
        colour_strength: NotNegative | None = None,
        blur: Share | None = None,
    ):
        super().__init__(encoder)
        self.temperature = temperature
        colours = simclr_colours(spec.image_size, colour_strength, blur)
        self.two_views = TwoViews(encoder, spec, crop_scale, view_size, colours)
        widths = [encoder.width] + [projector_width] * (projector_depth - 1) + [embedding_width]
        self.projector = projector(widths, last_norm="scale")

    def views(self) -> Crops:
        return self.two_views.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        images = self.encoder.normalise(torch.cat(self.two_views(batch, draw)))  # all first views, then all second ones
        features = self.encoder.embed(images)
        loss, accuracy = nt_xent(*self.projector(features).chunk(2), self.temperature)
        return Outcome(loss, {"accuracy": accuracy, "feature_std": feature_std(features.chunk(2)[0])})

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return self.two_views.pictures(batch, draw)


def nt_xent(first_bE: Tensor, second_bE: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The normalised temperature-scaled cross-entropy (equation 1), averaged over the 2b anchors of this rank.

    Computed in float32 whatever the autocast precision: at T = 0.1 half precision overflows.

    Shape:
        first_bE, second_bE: (b, E), the two views in the same order, not yet normalised; b >= 2 over all ranks.

    Returns:
        (loss, accuracy): scalars; accuracy is the share of anchors whose positive scores highest, detached.
    """
    with torch.autocast(first_bE.device.type, enabled=False):
        first_bE, second_bE = (F.normalize(at_least_float32(view), dim=1) for view in (first_bE, second_bE))
        b = len(first_bE)
        candidates = torch.cat([gather_candidates(first_bE), gather_candidates(second_bE)])  # (2B, E)
        total = len(candidates) // 2
        own = torch.arange(b, device=first_bE.device) + first_own_row(b)
        self_column = torch.cat([own, own + total])
        positive_column = torch.cat([own + total, own])
        logits = torch.cat([first_bE, second_bE]) @ candidates.T / temperature  # (2b, 2B)
        is_self = F.one_hot(self_column, 2 * total).bool()
        logits = logits.masked_fill(is_self, float("-inf"))
        accuracy = (logits.detach().argmax(1) == positive_column).float().mean()
        return F.cross_entropy(logits, positive_column), accuracy


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision widened, float64 left as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
