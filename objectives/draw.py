"""Every random choice of an objective as a pure function of (seed, epoch, sample index) and a name.

Not of the worker, the rank, the batch, the world size, or how often the run was interrupted.

Shapes: B samples; every method returns (B, *shape).
"""

import math
import zlib

import torch
from torch import Tensor

from datamodules.counter import GOLDEN, sample_keys, scramble, shift_right


class Draw:
    """Random numbers for a batch of samples.

    Args:
        seed: of the run.
        epoch: (B,) int64.
        index: (B,) int64, the sample's number in its data set.
    """

    def __init__(self, seed: int, epoch: Tensor, index: Tensor):
        self.seed, self.epoch, self.index = seed, epoch, index
        self.key_B = sample_keys(seed, epoch, index)

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
        return shift_right(self.bits(name, *shape), 40).float() * 2.0**-24

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal, at most 5.4 away from 0: the inverse distribution at 2^24 places."""
        return 2**0.5 * torch.erfinv(2 * self.uniform(name, *shape) - 1 + 2.0**-24)

    def integers(self, name: str, high: int | Tensor, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high), a number or (B, *shape); the bias of the modulus is below high / 2^63."""
        return shift_right(self.bits(name, *shape), 1) % high

    def permutation(self, name: str, length: int) -> Tensor:
        """(B, length) int64: a uniformly random order of 0 .. length - 1 in each row."""
        return self.bits(name, length).argsort(dim=1)
