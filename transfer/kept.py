"""What was read of an encoder serves a whole sweep: protocols and shares of labels ask the same vectors of the same samples.

A process keeps them for one encoder on one task at a time. They are the very numbers that another reading would give, and a
record counts what reading them took, so that a protocol is not cheaper for its place in a sweep.
"""

import hashlib
import json
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
        whose: tells it from all others.
        readings: (split, and which part of it) -> what was read.
    """

    whose: str = ""
    readings: dict[tuple, Reading] = field(default_factory=dict)


SHELF = Shelf()


@dataclass
class Kept:
    """One transfer's access to what earlier ones of its process have read.

    Args:
        about: what decides what is read beside the weights and the part of the labels: model, data, precision, device.
        label_fraction, seed: which part of the labels; the test split is always whole.

    Attributes:
        seconds: that reading once took of what this transfer was given.
        peak_memory_bytes: that it once needed.
    """

    about: dict[str, Any]
    label_fraction: float
    seed: int
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def read(self, encoder: Encoder, split: str, names: Iterable[str], anew: Callable[[], Vectors]) -> Vectors:
        """Vectors of a split by readout; `anew` reads those of `names`."""
        whose = identity(encoder, self.about)
        if whose != SHELF.whose:
            SHELF.whose, SHELF.readings = whose, {}
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


def let_go() -> None:
    """Free what is kept, for protocols that read nothing."""
    SHELF.whose, SHELF.readings = "", {}


def identity(encoder: Encoder, about: dict[str, Any]) -> str:
    """The same for the same weights and the same `about`."""
    digest = hashlib.sha256(json.dumps([type(encoder).__qualname__, about], sort_keys=True, default=str).encode())
    for name, weight in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
