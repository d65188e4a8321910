"""What was read of an encoder serves a whole sweep: protocols and shares of labels ask the same vectors of the same samples.

A process keeps them for one encoder on one task at a time. They are the very numbers that another reading would give, and a
record counts what reading them took, so that a protocol is not cheaper for its place in a sweep.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.encoder import Encoder
from training.memory import peak_memory_bytes

Vectors = tuple[dict[str, Tensor], Tensor]  # readout -> (n, D), and labels (n,)


@dataclass(frozen=True)
class Reading:
    """Vectors with what it took to read them."""

    vectors: Vectors
    seconds: float
    peak_memory_bytes: int


@dataclass
class Shelf:
    """The readings of one encoder on one task.

    Attributes:
        about: what decides, beside the weights, what is read; None where nothing is kept.
        weights: digest of those that it was read with.
        readings: (split, and which part of it) -> what was read.
    """

    about: dict[str, Any] | None = None
    weights: str = ""
    readings: dict[tuple, Reading] = field(default_factory=dict)

    def clear(self) -> None:
        """Free what is kept."""
        self.about, self.weights, self.readings = None, "", {}


SHELF = Shelf()


@dataclass
class Kept:
    """One transfer's access to what earlier ones of its process have read.

    Attributes:
        label_fraction, seed: which part of the labels it is given; the test split is always whole.
        seconds: that reading once took of what it was given.
        peak_memory_bytes: that it once needed.
    """

    label_fraction: float
    seed: int
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    @classmethod
    def of(cls, about: dict[str, Any], label_fraction: float, seed: int) -> "Kept":
        """What is kept about another encoder or task goes, before the memory of this transfer is counted.

        Args:
            about: what decides, beside the weights and the part of the labels, what is read; {} where nothing will be.
        """
        if about != SHELF.about:
            SHELF.clear()
            SHELF.about = about
        return cls(label_fraction, seed)

    def read(self, encoder: Encoder, split: str, names: Iterable[str], anew: Callable[[], Vectors]) -> Vectors:
        """Vectors of a split by readout; `anew` reads those of `names`."""
        if not SHELF.about:
            return anew()
        weights = digest(encoder)
        if weights != SHELF.weights:
            SHELF.weights, SHELF.readings = weights, {}
        part = (split,) if split == "test" or self.label_fraction == 1 else (split, self.label_fraction, self.seed)
        known = SHELF.readings.get(part)
        if known is not None and set(names) <= known.vectors[0].keys():
            self.seconds += known.seconds
            self.peak_memory_bytes = max(self.peak_memory_bytes, known.peak_memory_bytes)
            return known.vectors
        began = time.perf_counter()
        vectors = anew()
        SHELF.readings[part] = Reading(vectors, time.perf_counter() - began, peak_memory_bytes())
        return vectors


def digest(encoder: Encoder) -> str:
    """The same for the same weights."""
    found = hashlib.sha256()
    for name, weight in encoder.state_dict().items():
        found.update(name.encode())
        found.update(weight.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()
