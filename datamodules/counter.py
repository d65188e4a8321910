"""Random bits as a pure function of a counter, so that what is drawn for a sample depends on nothing else.

The generator is the finaliser of splitmix64 (Steele, Lea and Flood 2014, figure 16): the same numbers on CPU and GPU.

Shapes: B samples.
"""

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB


def scramble(bits: Tensor) -> Tensor:
    """splitmix64's finaliser, elementwise on int64 (arithmetic wraps around as on unsigned integers)."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        bits = (bits ^ shift_right(bits, shift)) * multiplier
    return bits ^ shift_right(bits, 31)


def shift_right(bits: Tensor, shift: int) -> Tensor:
    return (bits >> shift) & ((1 << (64 - shift)) - 1)  # torch shifts the sign in; the mask takes it out again


def sample_keys(seed: int, epoch: Tensor, index: Tensor) -> Tensor:
    """(B,) int64: where the stream of each sample begins, from its (B,) epoch and index."""
    key_B = torch.full_like(index, seed)
    for part in (epoch, index):
        key_B = scramble(key_B + GOLDEN) ^ part
    return scramble(key_B + GOLDEN)
