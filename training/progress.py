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

    A resumed run counts on from its checkpoint, so all of these are of the whole run.

    Args:
        paused: seconds that something else than training took so far, such as monitors.

    Attributes:
        seconds: wall-clock time of the steps, everything included.
        samples_per_second: over that time without the pauses, waiting for data included.
        losses: (step, loss) of each tenth of the run.
    """

    def __init__(self, paused: Callable[[], float] = lambda: 0.0) -> None:
        self.console = Console(file=sys.stdout)
        self.bar: Progress | None = None
        self.paused = paused
        self.seconds, self.samples_per_second, self.steps = 0.0, 0.0, 0
        self.losses: list[tuple[int, float]] = []
        self._began: float | None = None
        self._before = self._shown = 0.0
        self._said_something = False

    def elapsed(self) -> float:
        """Seconds so far, those before an interruption included."""
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed(), "steps": self.steps, "losses": [list(pair) for pair in self.losses]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before, self.steps = state["seconds"], state["steps"]
        self.losses = [(step, loss) for step, loss in state["losses"]]

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
        self.samples_per_second = module.batch_size * self.steps / (self.elapsed() - self.paused())
        step, last = trainer.global_step, trainer.global_step == module.num_steps
        tenth = max(1, module.num_steps // 10)
        due = step % tenth == 0 or last or self.steps == 1
        if due:
            self.losses.append((step, module.loss.item()))
        if trainer.is_global_zero and self.bar is None and (due or not self._said_something):
            self._said_something = True
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
        self.seconds, self._before, self._began = self.elapsed(), self.elapsed(), None
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
