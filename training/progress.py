"""How far the run is: a bar on a terminal, a line every tenth of the run in a log file."""

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.pretraining import Pretraining

REFRESH = 0.2  # seconds


class ProgressLine(L.Callback):
    """Loss, learning rate, samples/s and time left; it also times the run for the result.

    Args:
        paused: seconds that something else than training took so far, such as monitors.

    Attributes:
        seconds: wall-clock time since the first step, everything included.
        samples_per_second: over that time without the pauses, waiting for data included.
        losses: (step, loss) of each tenth of the run.
    """

    def __init__(self, paused: Callable[[], float] = lambda: 0.0) -> None:
        self.console = Console(file=sys.stdout)
        self.bar: Progress | None = None
        self.paused = paused
        self.seconds, self.samples_per_second, self.steps = 0.0, 0.0, 0
        self.losses: list[tuple[int, float]] = []
        self._began = self._shown = 0.0

    def on_train_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        self._began = time.perf_counter()
        if trainer.is_global_zero and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, refresh_per_second=5)
            self.bar.start()
            self.task = self.bar.add_task("", total=module.num_steps, completed=trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        now = time.perf_counter()
        self.steps += 1
        training_seconds = now - self._began - self.paused()
        self.samples_per_second = module.batch_size * self.steps / training_seconds
        step, last = trainer.global_step, trainer.global_step == module.num_steps
        tenth = max(1, module.num_steps // 10)
        if step % tenth == 0 or last or self.steps == 1:
            self.losses.append((step, module.loss.item()))
            if trainer.is_global_zero and self.bar is None:
                print(f"step {step}/{module.num_steps}  {self._status(module, step)}", flush=True)
        if self.bar is not None and (now - self._shown > REFRESH or last):
            self._shown = now
            self.bar.update(self.task, completed=step, description=self._status(module, step))

    def _status(self, module: Pretraining, step: int) -> str:
        left = (module.num_steps - step) * module.batch_size / self.samples_per_second
        return (
            f"loss {module.loss.item():.4f}  lr {module.lr:.2g}  {self.samples_per_second:.0f} samples/s"
            f"  {int(left) // 60}:{int(left) % 60:02d} left"
        )

    def on_train_end(self, trainer: L.Trainer, module: Pretraining) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: Pretraining, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        self.seconds = time.perf_counter() - self._began
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
