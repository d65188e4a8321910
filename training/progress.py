"""How far the run is: a bar on a terminal, a line every tenth of the run in a log file."""

import sys
import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training.pretraining import Pretraining

REFRESH = 0.2  # seconds
LINES = 10  # of a run in a log file


class ProgressLine(L.Callback):
    """Loss, learning rate, samples/s and time left."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stdout)
        self.bar: Progress | None = None
        self._shown = self._before = 0.0
        self._first = True

    def on_train_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        self._before = module.course.progress
        if trainer.is_global_zero and self.console.is_terminal:
            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, refresh_per_second=5)
            self.bar.start()
            self.task = self.bar.add_task("first step", total=1.0, completed=self._before)
        elif trainer.is_global_zero:
            print(f"{module.course.position}  the next one is under way", flush=True)

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        now, progress = time.perf_counter(), module.course.progress
        if self.bar is not None and (now - self._shown > REFRESH or module.course.finished):
            self._shown = now
            self.bar.update(self.task, completed=progress, description=status(module))
        elif self.bar is None and trainer.is_global_zero and (passes(LINES, self._before, progress) or self._first):
            print(f"{status(module)}  {clock(seconds_left(module))} left", flush=True)
        self._before, self._first = progress, False

    def on_train_end(self, trainer: L.Trainer, module: Pretraining) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: Pretraining, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def passes(times: int, before: float, progress: float) -> bool:
    """Whether one of `times` equal parts of the run ended since progress was `before`; the last ends with the run."""
    return int(times * progress + 1e-9) > int(times * before + 1e-9)


def status(module: Pretraining) -> str:
    """Where the run stands, in a line."""
    return (
        f"{module.course.position}  loss {module.loss.item():.4f}  lr {module.lr:.2g}  "
        f"{samples_per_second(module):.0f} samples/s"
    )


def samples_per_second(module: Pretraining) -> float:
    """Over the training time so far."""
    return module.batch_size * module.course.step / module.watch.seconds


def seconds_left(module: Pretraining) -> float:
    """At the mean speed so far."""
    return module.watch.seconds * (1 / module.course.progress - 1)


def clock(seconds: float) -> str:
    """Minutes and seconds: 4:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
