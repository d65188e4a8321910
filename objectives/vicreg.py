"""VICReg (Bardes, Ponce and LeCun 2022, "Variance-Invariance-Covariance Regularization", section 4).

Invariance:  the two views of a picture get the same embedding.
Variance:    every dimension of the embedding has a standard deviation of at least 1 over the batch of all ranks.
Covariance:  its dimensions are not correlated.

Shapes: b pictures on this rank, B on all ranks, D encoder width, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.spec import DataSpec
from models.encoder import Encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.gather import gather_candidates
from objectives.objective import Batch, Objective, Outcome
from objectives.photometry import byol_colours
from objectives.projector import projector
from objectives.simclr import at_least_float32
from objectives.two_views import TwoViews
from objectives.views import Crops, CropScale
from ranges import Count, NotNegative


class VICReg(Objective):
    """VICReg.

    Args:
        encoder: any image encoder; its pooled features enter the expander.
        spec: the opened data set.
        invariance, variance, covariance: weights of the three terms.
        expander_width: of all three layers (paper: 8192); batch norm after the first two.
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
        invariance: NotNegative = 25.0,
        variance: NotNegative = 25.0,
        covariance: NotNegative = 1.0,
        expander_width: Count = 8192,
        crop_scale: CropScale = (0.08, 1.0),
        view_size: Count | None = None,
    ):
        super().__init__(encoder)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        self.two_views = TwoViews(encoder, spec, crop_scale, view_size, byol_colours(spec.image_size))
        self.expander = projector([encoder.width] + [expander_width] * 3)

    def views(self) -> Crops:
        return self.two_views.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        features = [self.encoder.embed(self.encoder.normalise(view)) for view in self.two_views(batch, draw)]
        first_bE, second_bE = map(self.expander, features)
        terms = vicreg_terms(first_bE, second_bE)
        loss = sum(self.weights[name] * term for name, term in terms.items())
        report = {name: term.detach() for name, term in terms.items()}
        return Outcome(loss, report | {"feature_std": feature_std(features[0])})

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        return self.two_views.pictures(batch, draw)


def vicreg_terms(first_bE: Tensor, second_bE: Tensor) -> dict[str, Tensor]:
    """The three terms, not yet weighted, in float32. Variance and covariance are those of the batch of all ranks.

    The hinge of the variance is averaged over both views and the covariance summed, as in the authors' code; equation 6
    sums both and its weights then mean something else.

    Shape: first_bE, second_bE (b, E), the two views in the same order.
    """
    with torch.autocast(first_bE.device.type, enabled=False):
        first_bE, second_bE = at_least_float32(first_bE), at_least_float32(second_bE)
        invariance = F.mse_loss(first_bE, second_bE)
        gathered = [gather_candidates(view_bE) for view_bE in (first_bE, second_bE)]
        variance = sum(F.relu(1 - (view_BE.var(dim=0) + 1e-4).sqrt()).mean() for view_BE in gathered) / 2
        return {"invariance": invariance, "variance": variance, "covariance": sum(map(off_diagonal, gathered))}


def off_diagonal(view_BE: Tensor) -> Tensor:
    """The squared covariances between different dimensions, summed and divided by E (equation 4)."""
    centred_BE = view_BE - view_BE.mean(dim=0)
    covariance_EE = centred_BE.T @ centred_BE / (len(view_BE) - 1)
    return (covariance_EE.square().sum() - covariance_EE.diagonal().square().sum()) / view_BE.shape[1]
