"""What an autoencoder's decoder is given: the encoder's vector, or a sample around it.

Shapes: B pictures, D encoder width, Z latent width, W channels of the decoder's first grid, S its side.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.encoder import Encoder, Features
from objectives.collapse import feature_std
from objectives.draw import Draw
from ranges import Count, NotNegative


@dataclass(frozen=True)
class Code:
    """What passes a bottleneck.

    Attributes:
        grid_BWSS: for the decoder.
        nats_B: what the code costs, added to the cost of the pixels.
        report: detached scalars.
    """

    grid_BWSS: Tensor
    nats_B: Tensor
    report: dict[str, Tensor] = field(default_factory=dict)


class Bottleneck(nn.Module):
    """From features to a code, given the draw."""

    def forward(self, features: Features, draw: Draw) -> Code:
        raise NotImplementedError

    def after_step(self) -> None:
        """Move what the optimiser does not."""


class Vector(Bottleneck):
    """The pooled features as they are.

    Args:
        encoder: whose features come.
        channels, side: W and S.
    """

    def __init__(self, encoder: Encoder, channels: int, side: int):
        super().__init__()
        self.shape = (channels, side, side)
        self.spread = nn.Linear(encoder.width, channels * side**2)

    def forward(self, features: Features, draw: Draw) -> Code:
        pooled_BD = features.pooled
        grid_BWSS = self.spread(pooled_BD).unflatten(1, self.shape)
        return Code(grid_BWSS, pooled_BD.new_zeros(len(pooled_BD)), {"feature_std": feature_std(pooled_BD)})


class Gaussian(Bottleneck):
    """A sample from the normal distribution whose mean and variances are read from the pooled features.

    Kingma and Welling 2014 ("Auto-Encoding Variational Bayes"), section 3 and appendix B. In evaluation the mean passes.

    Args:
        encoder: whose features come.
        channels, side: W and S.
        width: Z.
        weight: of the divergence from the standard normal; 1 is the bound on the likelihood, others Higgins et al. 2017.
    """

    def __init__(self, encoder: Encoder, channels: int, side: int, width: Count = 64, weight: NotNegative = 1.0):
        super().__init__()
        self.shape, self.width, self.weight = (channels, side, side), width, weight
        self.read = nn.Linear(encoder.width, 2 * width)
        self.spread = nn.Linear(width, channels * side**2)

    def forward(self, features: Features, draw: Draw) -> Code:
        mean_BZ, log_variance_BZ = self.read(features.pooled).float().chunk(2, dim=1)
        noise_BZ = draw.normal("latent", self.width) if self.training else torch.zeros_like(mean_BZ)
        latent_BZ = mean_BZ + (log_variance_BZ / 2).exp() * noise_BZ
        nats_BZ = divergence(mean_BZ, log_variance_BZ)
        report = {
            "divergence": nats_BZ.detach().sum(dim=1).mean(),  # nats a picture; 0 is collapse to the prior
            "active": (nats_BZ.detach().mean(dim=0) > 0.01).float().sum(),  # dimensions that say something
            "feature_std": feature_std(features.pooled),
        }
        return Code(self.spread(latent_BZ).unflatten(1, self.shape), self.weight * nats_BZ.sum(dim=1), report)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, 1), elementwise, in nats."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2
