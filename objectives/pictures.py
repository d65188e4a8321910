"""Pictures for people to look at."""

from torch import Tensor


def tile(rows: Tensor) -> Tensor:
    """(R, S, C, H, W) -> one picture (C, R H, S W): R rows of S pictures."""
    r, s, c, h, w = rows.shape
    return rows.permute(2, 0, 3, 1, 4).reshape(c, r * h, s * w)
