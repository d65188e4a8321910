"""What a comparison consists of."""

import importlib
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks import sides
from benchmarks.gate import Gate, Side

IN_MODULE = {"mae_vit_b": "mae"}  # cases that share the file of another


class AnyWork(Protocol):
    """What is done in a step, and how it is counted."""

    batch: int
    unit: str
    units_a_step: int

    def described(self) -> str:
        """For a table."""

    def with_batch(self, batch: int) -> "AnyWork":
        """The same with other batches."""


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to do the same work.

    Attributes:
        side: (gate, work, precision).
        called: for the table.
        target: how many times faster this project wants to be where the hardware multiplies bf16 fast.
        target_fp32: and in fp32.
    """

    side: Side
    called: str
    target: float
    target_fp32: float = 0.97


@dataclass(frozen=True)
class Case:
    """A work, and whose ways to do it are compared with ours.

    Attributes:
        work: at the size that is measured.
        toy: the same in a size that a test can afford.
        peers: by the name that `--peer` takes; training has the bare loop besides.
        batch_fp32: samples a step in fp32, where the work's own take too long.
        ours: how this project does it; (gate, work, precision).
    """

    work: AnyWork
    toy: AnyWork
    peers: dict[str, Peer] = field(default_factory=dict)
    batch_fp32: int | None = None
    ours: Side = sides.ours

    def at(self, precision: str, toy: bool) -> AnyWork:
        """The work to do."""
        if toy:
            return self.toy
        return self.work.with_batch(self.batch_fp32) if precision == "fp32" and self.batch_fp32 else self.work

    def rivals(self) -> dict[str, Peer]:
        """The peers, and for training the bare loop."""
        return self.peers | ({"bare": BARE} if self.ours is sides.ours else {})


def case_named(name: str) -> Case:
    """A case of benchmarks/cases/; only its own peers are imported."""
    return importlib.import_module(f"benchmarks.cases.{IN_MODULE.get(name, name)}").CASES[name]


def beside_its_peers(gate: Gate, name: str, side: Side, work: AnyWork, precision: str) -> None:
    """A side of a case with the libraries of all its sides loaded, so that none is smaller than another for lack of them."""
    case_named(name)
    side(gate, work, precision)


BARE = Peer(sides.bare, "bare PyTorch loop over the same objective", target=0.97)
