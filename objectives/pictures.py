"""Pictures for people to look at."""

from torch import Tensor


def tile(rows: Tensor) -> Tensor:
    """(R, S, C, H, W) -> one picture (C, R H, S W): R rows of S pictures."""
    r, s, c, h, w = rows.shape
    return rows.permute(2, 0, 3, 1, 4).reshape(c, r * h, s * w)


def gallery(pictures: Tensor) -> Tensor:
    """(B, C, H, W) uint8 -> one picture of them, up to four a row, in [0, 1]."""
    columns = min(4, len(pictures))
    return tile(pictures[: len(pictures) // columns * columns].float().div(255).unflatten(0, (-1, columns)))
