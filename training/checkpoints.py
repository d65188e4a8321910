"""Checkpoints: plain containers, whole or not there, the last two kept, and saved before a signal ends the run."""

import os
import pickle
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch

from errors import BadInput, RunStopped
from training.pretraining import Pretraining


class Checkpoints(L.Callback):
    """Saves every `every_steps`, at the end, and when SIGINT or SIGTERM asks the run to stop.

    Args:
        folder: of the run; files are `checkpoints/last.ckpt` and `checkpoints/previous.ckpt`.
        every_steps: interval; the last step is always saved.
    """

    def __init__(self, folder: Path, every_steps: int):
        self.run_folder, self.folder, self.every_steps = folder, folder / "checkpoints", every_steps
        self.last = self.folder / "last.ckpt"
        self.signal: int | None = None

    def on_train_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        self.folder.mkdir(exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # after Lightning set its own; it restores the originals itself
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # asked twice: do not wait for the step
            raise RunStopped(f"stopped at once by a second signal; {self.where()}", 128 + number)
        self.signal = number

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        if self.signal is None and trainer.global_step % self.every_steps and not module.course.finished:
            return
        self.save(trainer, module)
        if self.signal is not None and not module.course.finished:
            name = signal.Signals(self.signal).name
            raise RunStopped(f"stopped by {name} at {module.course.position}; {self.where()}", 128 + self.signal)

    def on_exception(self, trainer: L.Trainer, module: Pretraining, exception: BaseException) -> None:
        if isinstance(exception, RunStopped) and "checkpoint" not in str(exception):
            exception.args = (f"{exception.args[0]}; {self.where()}",)

    def save(self, trainer: L.Trainer, module: Pretraining) -> None:
        """Write under another name, sync, then rename: whatever happens, a whole checkpoint stands under `last.ckpt`."""
        module.stop_if_not_finite(weights=True)
        part = self.folder / "last.ckpt.part"
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            if self.last.exists():
                os.replace(self.last, self.folder / "previous.ckpt")
            os.replace(part, self.last)

    def where(self) -> str:
        """What a user can go on from."""
        if not self.last.exists():
            return "no checkpoint was saved yet"
        return f"the last good checkpoint is {self.last}; go on with: python train.py resume={self.run_folder}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain containers and tensors; nothing in it is ever executed.

    Raises:
        BadInput: missing, cut, not a checkpoint of this project, or holding anything that would run code.
    """
    if not path.is_file():
        raise BadInput(f"there is no checkpoint '{path}'")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = "GLOBAL" in str(error) or "Unsupported" in str(error)
        reason = "it holds objects other than plain data, which could run code" if foreign else "it is damaged"
        raise BadInput(f"checkpoint '{path}' is refused: {reason}") from error
    except Exception as error:  # zip, end-of-file, key and runtime errors: the file is cut or something else
        raise BadInput(f"checkpoint '{path}' cannot be read: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(checkpoint, dict) or "headstart" not in checkpoint:
        raise BadInput(f"'{path}' is not a checkpoint of a Headstart run")
    return checkpoint


def readable_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run that is whole; a damaged one is reported and the one before it taken.

    Raises:
        BadInput: none is there, or none can be read.
    """
    candidates = [folder / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt")]
    present = [path for path in candidates if path.is_file()]
    if not present:
        raise BadInput(f"'{folder}' holds no checkpoint to resume from (looked for {candidates[0]})")
    for path in present:
        try:
            read_checkpoint(path)
            return path
        except BadInput as error:
            if path == present[-1]:
                raise
            print(f"warning: {error}; taking the one before it", flush=True)
    raise AssertionError("unreachable: the loop returns or raises")
