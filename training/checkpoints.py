"""When checkpoints are made: at intervals, at the end, and before a signal ends the run; the last two are kept."""

import os
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from conf.pasted import command_line, from_start
from datamodules.cache import sync
from errors import RunStopped
from training.pretraining import Pretraining

TOGETHER = 1.0  # seconds within which SIGTERM is one: of a parent that is gone Linux tells once or twice, by its threads


class Checkpoints(L.Callback):
    """Saves every `every_steps`, at the end, and when SIGINT or SIGTERM asks the run to stop.

    Several ranks stop after the same step, whichever of them were asked: each step they vote, while they compute, on what
    reached them before it.

    Args:
        folder: of the run; what is written is `checkpoints/last.ckpt` and `checkpoints/previous.ckpt`.
        every_steps: interval; the last step is always saved.
    """

    def __init__(self, folder: Path, every_steps: int):
        self.run_folder, self.folder, self.every_steps = folder, folder / "checkpoints", every_steps
        self.last, self.previous = self.folder / "last.ckpt", self.folder / "previous.ckpt"
        self.part = self.folder / "next.part"
        self.signal: int | None = None
        self._asked_at = 0.0
        self._vote: tuple[torch.Tensor, dist.Work] | None = None

    def on_train_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        self.folder.mkdir(exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # after Lightning set its own; it restores the originals itself
            signal.signal(number, self._on_signal)
        if trainer.received_sigterm:  # by Lightning's own, just before
            self.signal, self._asked_at = signal.SIGTERM, time.monotonic()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal == number == signal.SIGTERM and now - self._asked_at < TOGETHER:
            return
        if self.signal is not None and not dist.is_initialized():  # asked twice: do not wait for the step
            raise RunStopped(f"stopped at once by a second signal; {self.where()}", 128 + number)
        self.signal, self._asked_at = number, now

    def on_train_batch_start(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        if trainer.world_size > 1:
            asked = torch.tensor(self.signal or 0)
            self._vote = asked, dist.all_reduce(asked, op=dist.ReduceOp.MAX, async_op=True)

    def _asked_to_stop(self) -> int | None:
        if self._vote is None:
            return self.signal
        asked, vote = self._vote
        vote.wait()
        return int(asked) or None

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        course, asked = module.course, self._asked_to_stop()
        if asked is None and course.step % self.every_steps and not course.finished:
            return
        self.save(trainer, module)
        if asked is not None and not course.finished:
            message = f"stopped by {signal.Signals(asked).name} at {course.position}; {self.where()}"
            raise RunStopped(message, 128 + asked, everywhere=True)

    def on_exception(self, trainer: L.Trainer, module: Pretraining, exception: BaseException) -> None:
        if "checkpoint" not in str(exception):
            exception.add_note(self.where())

    def save(self, trainer: L.Trainer, module: Pretraining) -> None:
        """Write under another name, sync, then rename: whatever happens, a whole checkpoint stands there.

        Raises:
            RunStopped: it cannot be written, or the weights are not worth it.
        """
        module.stop_if_not_finite(weights=True)
        try:
            if trainer.is_global_zero:
                trainer.logger.experiment.flush()  # what is logged belongs to the step that it is gone on from
                remove(self.part)
            trainer.strategy.barrier()
            trainer.save_checkpoint(self.part)  # all ranks take part, and wait for each other
            if trainer.is_global_zero:
                if self.part.is_dir():
                    sync(self.part)  # the names of the ranks' files
                if self.last.exists():
                    remove(self.previous)  # a folder cannot be replaced by a rename
                    os.replace(self.last, self.previous)
                os.replace(self.part, self.last)
                sync(self.folder)
        except OSError as error:
            remove(self.part)
            raise RunStopped(
                f"the checkpoint of step {trainer.global_step} cannot be written: {error.strerror or error}; {self.where()}", 1
            ) from error

    def where(self) -> str:
        """What a user can go on from."""
        found = next((path for path in (self.last, self.previous) if path.exists()), None)
        if found is None:
            return "no checkpoint was saved yet"
        again = command_line("train.py", resume=self.run_folder)
        return f"the last good checkpoint is {from_start(found)}; go on with: {again}"


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
