"""Fixed sine-cosine position embeddings on a square grid (MAE, section A.1; MoCo v3, section 4)."""

import torch
from torch import Tensor


def sincos_positions(width: int, grid: int, num_prefix: int = 0) -> Tensor:
    """(num_prefix + grid², width): half of the width encodes the column, half the row; prefix tokens get zeros."""
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {width}")
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    parts = []
    for coordinate in (column, row):
        angle = coordinate.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    positions = torch.cat(parts, dim=1).float()
    return torch.cat([torch.zeros(num_prefix, width), positions])
