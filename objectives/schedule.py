"""What changes over the budget: a number as a function of progress, which runs from 0 to 1."""

import math

from torch import Tensor


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine (Grill et al. 2020, section 3.3, for BYOL's momentum)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def rise(start: float, end: float, progress: Tensor, share: float) -> Tensor:
    """From `start` to `end` in a straight line over the first `share` of the budget, then constant."""
    return start + (end - start) * (progress / max(share, 1e-9)).clamp(0, 1)
