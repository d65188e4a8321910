"""How far a run is: by its steps where their number is known, by training time where that is the budget."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from errors import BadInput

ENDLESS = 2**40  # batches in the order of a run that ends by time


class Course(Protocol):
    """How far a run is.

    Attributes:
        step: optimiser steps done.
        progress: from 0 to 1; what warm-up, decay, teachers and monitors scale to.
        finished: whether the budget is spent.
        num_steps: the whole run's; while that is not known, what it comes to at the mean speed so far.
        most_steps: an upper limit that is known before the run.
        timed: whether it depends on a clock, so that ranks must agree on one.
        position: the same for a person to read.
    """

    step: int
    timed: ClassVar[bool]

    @property
    def progress(self) -> float: ...
    @property
    def finished(self) -> bool: ...
    @property
    def num_steps(self) -> float: ...
    @property
    def most_steps(self) -> int: ...
    @property
    def position(self) -> str: ...

    def advance(self, step: int, seconds: float) -> None:
        """`step` steps are done, after `seconds` of training time."""


@dataclass
class Steps:
    """A run of `num_steps` optimiser steps."""

    num_steps: int
    step: int = 0
    timed: ClassVar[bool] = False

    def advance(self, step: int, seconds: float) -> None:
        self.step = step

    @property
    def progress(self) -> float:
        return min(1.0, self.step / self.num_steps)

    @property
    def finished(self) -> bool:
        return self.step >= self.num_steps

    @property
    def most_steps(self) -> int:
        return self.num_steps

    @property
    def position(self) -> str:
        return f"step {self.step} of {self.num_steps}"


@dataclass
class Minutes:
    """A run of `asked` seconds of training time; it ends where that lies nearest to the end of a step.

    Nobody knows the number of steps ahead, and a machine's speed drifts, so progress is time and never a forecast.
    """

    asked: float
    step: int = 0
    seconds: float = 0.0
    timed: ClassVar[bool] = True

    def advance(self, step: int, seconds: float) -> None:
        if step == 1 and seconds > self.asked:
            raise BadInput(f"budget.minutes={self.asked / 60:g} is smaller than one step: the first took {seconds:.2g} s")
        self.step, self.seconds = step, seconds

    @property
    def progress(self) -> float:
        return 1.0 if self.finished else self.seconds / self.asked

    @property
    def finished(self) -> bool:
        half_step = self.seconds / self.step / 2 if self.step else 0.0
        return self.seconds + half_step >= self.asked

    @property
    def num_steps(self) -> float:
        # before the first step is timed the run is as good as endless: that step's learning rate is next to nothing
        return max(1, self.step) / max(self.progress, 1e-9)

    @property
    def most_steps(self) -> int:
        return ENDLESS

    @property
    def position(self) -> str:
        return f"step {self.step}, {self.seconds / 60:.2f} of {self.asked / 60:g} minutes"


@dataclass
class Stopwatch:
    """Training time in seconds: waiting for data included, monitors and what interruptions lost left out.

    Attributes:
        now: a clock.
        before: training time of the run before this process.
        paused: seconds that monitors took, before this process too.
    """

    now: Callable[[], float] = time.perf_counter
    before: float = 0.0
    paused: float = 0.0
    _began: float | None = field(default=None, repr=False)
    _paused_before: float = field(default=0.0, repr=False)

    def start(self) -> None:
        self._began, self._paused_before = self.now(), self.paused

    @property
    def seconds(self) -> float:
        if self._began is None:
            return self.before
        return self.before + self.now() - self._began - (self.paused - self._paused_before)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside is no training."""
        began = self.now()
        yield
        self.paused += self.now() - began
