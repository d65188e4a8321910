"""Every random choice of an objective as a pure function of (seed, epoch, sample index) and a name.

Not of the worker, the rank, the batch, the world size, or how often the run was interrupted. The generator is the
finaliser of splitmix64 (Steele, Lea and Flood 2014, figure 16) applied to a counter: the same numbers on CPU and GPU.

Shapes: B samples; every method returns (B, *shape).
"""

import math
import zlib

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB


def scramble(bits: Tensor) -> Tensor:
    """splitmix64's finaliser, elementwise on int64 (arithmetic wraps around as on unsigned integers)."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        bits = (bits ^ _shift_right(bits, shift)) * multiplier
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, shift: int) -> Tensor:
    return (bits >> shift) & ((1 << (64 - shift)) - 1)  # torch shifts the sign in; the mask takes it out again


class Draw:
    """Random numbers for a batch of samples.

    Args:
        seed: of the run.
        epoch: (B,) int64.
        index: (B,) int64, the sample's number in its data set.
    """

    def __init__(self, seed: int, epoch: Tensor, index: Tensor):
        self.seed, self.epoch, self.index = seed, epoch, index
        key = torch.full_like(index, seed)
        for part in (epoch, index):
            key = scramble(key + GOLDEN) ^ part
        self.key_B = scramble(key + GOLDEN)

    def repeating(self, num_epochs: int) -> "Draw":
        """The same choices again after every `num_epochs` epochs."""
        return Draw(self.seed, self.epoch % num_epochs, self.index)

    def head(self, num_samples: int) -> "Draw":
        """The choices of the first samples alone."""
        return Draw(self.seed, self.epoch[:num_samples], self.index[:num_samples])

    def bits(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform over all 64-bit patterns; `name` says what for, so that choices are independent."""
        key_B = scramble(self.key_B ^ zlib.crc32(name.encode()))
        counter = torch.arange(1, math.prod(shape) + 1, device=key_B.device) * GOLDEN
        return scramble(key_B[:, None] + counter).view(len(key_B), *shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1): 24 random bits each."""
        return _shift_right(self.bits(name, *shape), 40).float() * 2.0**-24

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal, at most 5.4 away from 0: the inverse distribution at 2^24 places."""
        return 2**0.5 * torch.erfinv(2 * self.uniform(name, *shape) - 1 + 2.0**-24)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high); the bias of the modulus is below high / 2^63."""
        return _shift_right(self.bits(name, *shape), 1) % high

    def permutation(self, name: str, length: int) -> Tensor:
        """(B, length) int64: a uniformly random order of 0 .. length - 1 in each row."""
        return self.bits(name, length).argsort(dim=1)
