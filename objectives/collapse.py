"""How far features are from being all the same."""

import torch.nn.functional as F
from torch import Tensor


def feature_std(features_BD: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of normalised features, times sqrt(D): 1 is isotropic, 0 collapse.

    Chen and He 2021 ("SimSiam"), section 4.1. Objectives report it of the encoder's pooled features: behind a batch norm it
    would be 1 whatever the encoder does. A single row has no spread, 0.
    """
    normalised = F.normalize(features_BD.detach().float(), dim=1)
    return normalised.std(dim=0, correction=min(1, len(normalised) - 1)).mean() * features_BD.shape[1] ** 0.5


def entropy(probability_BK: Tensor) -> Tensor:
    """(B,) in nats: 0 where all is on one outcome, ln K where nothing is told apart."""
    return -(probability_BK * probability_BK.clamp(min=1e-12).log()).sum(dim=1)
