"""One run: its folder, its configuration, and where it resumes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from conf.pasted import command_line, from_start
from errors import BadInput
from reports.result import read_result
from training.checkpoint_files import newest_checkpoint
from training.checkpoints import remove
from training.configuration import SPEED, gone_on_with, read_config
from training.continuation import Start, resolve

AUTO = "auto"  # resume=auto: go on where a run is there already, else begin


@dataclass
class Run:
    """An opened run folder.

    Attributes:
        folder: where everything of this run goes.
        config: the resolved configuration, plain containers.
        resume_point: the checkpoint to go on from, or None.
        first_step: the optimiser steps that are already done.
        begun: whether the folder was a run's before this process.
        finished: whether there is nothing left to do.
    """

    folder: Path
    config: dict[str, Any]
    resume_point: Path | None = None
    first_step: int = 0
    begun: bool = False
    finished: bool = False
    _lock: BaseFileLock | None = field(default=None, repr=False)

    @classmethod
    def open(cls, config: dict[str, Any], folder: str | Path) -> "Run":
        """A new run in `folder`, or with `resume` set that run, as it was configured but for what `resumed` has changed.

        Raises:
            BadInput: the folder holds a run already, has nothing to resume from, or is another process's at the moment.
        """
        if config["resume"] not in (None, AUTO):
            return cls._reopen(Path(config["resume"]), config)
        folder = Path(os.path.relpath(folder)) if Path(folder).is_relative_to(Path.cwd()) else Path(folder)
        run = cls(folder, config)
        if not (folder / "config.yaml").exists():
            return run
        if config["resume"] != AUTO:
            raise run._taken()
        different = first_difference(config, read_config(folder))
        if different is not None:
            raise BadInput(f"'{folder}' holds a run with other settings, which resume=auto cannot go on with: {different}")
        return cls._reopen(folder, config)

    @cached_property
    def start(self) -> Start:
        """What it begins with."""
        return Start.of(self.config)

    def claim(self) -> None:
        """Write `config.yaml`, once all is built and nothing can be refused any more; two runs never share a folder.

        Raises:
            BadInput: another run was faster, or the folder cannot be written.
        """
        if self.begun:
            return
        part = self.folder / f"config.yaml.{os.getpid()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()
            for leftover in self.folder.glob("*.part"):  # of a process that was killed here
                remove(leftover)
            part.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")
            os.link(part, self.folder / "config.yaml")  # whole or not at all, and never over another one
        except FileExistsError as error:
            raise self._taken() from error
        except OSError as error:
            raise BadInput(f"run folder '{self.folder}' cannot be written: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}  # the first rank holds it for all

    def _hold(self) -> None:
        """Keep other processes out of the folder until this one ends, however it ends."""
        self._lock = FileLock(self.folder / "run.lock", is_singleton=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise BadInput(f"run '{self.folder}' is going on in another process") from error
        except (NotImplementedError, OSError):  # a file system without locks
            self._lock = None

    def leave(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.release()

    def _taken(self) -> BadInput:
        return BadInput(
            f"'{from_start(self.folder)}' holds a run already; go on with it: {command_line('train.py', resume=self.folder)}, "
            "or give another hydra.run.dir"
        )

    @classmethod
    def _reopen(cls, folder: Path, config: dict[str, Any]) -> "Run":
        if not (folder / "config.yaml").exists():
            raise BadInput(f"'{folder}' holds no run to resume: there is no config.yaml")
        recorded = read_config(folder)
        run = cls(folder, recorded | {node: config[node] for node in SPEED}, begun=True)
        if not os.access(folder, os.W_OK):
            raise BadInput(f"run folder '{folder}' cannot be written: it is read-only, for this user at least")
        run._hold()
        for leftover in (*folder.glob("*.part"), *folder.glob("checkpoints/*.part")):
            remove(leftover)
        if not any((folder / "checkpoints").glob("*.ckpt")):
            print(f"'{folder}' was interrupted before its first checkpoint; it begins again", flush=True)
            return run
        run.resume_point, point = newest_checkpoint(folder)
        run.first_step, recorded = point["global_step"], point["headstart"]
        if recorded.get("finished") and (folder / "result.json").exists():
            if config["resume"] != AUTO:
                raise BadInput(f"run '{folder}' is finished ({recorded['position']}); there is nothing to resume")
            run.finished = True
        return run


def resumed(config: dict[str, Any], folder: str | Path, words: Sequence[str]) -> dict[str, Any]:
    """The settings of a command line, `model.init` resolved; a run that is gone on with has its own.

    Of `trainer` and `monitor` what was typed takes the place of what was recorded.

    Raises:
        BadInput: its config.yaml is damaged, or other settings were typed beside `resume=<run folder>` than it has.
    """
    folder = Path(folder)
    begun = config["resume"] is not None and (folder / "config.yaml").exists()
    if not begun or config["resume"] == AUTO:
        config = resolve(config, tuple(words))
        return gone_on_with(config, folder, words) if begun else config
    recorded = read_config(folder)
    different = typed_difference(config, recorded, words)
    if different is not None:
        raise BadInput(f"'{folder}' is gone on with as it was begun, but another setting is given: {different}")
    speed = gone_on_with(config, folder, words)
    return recorded | {node: speed[node] for node in SPEED} | {"resume": config["resume"]}


def score(folder: str | Path) -> float:
    """What a search over settings maximises: a run's validation k-NN accuracy, or minus its last loss where there is none."""
    metrics = read_result(Path(folder) / "result.json").metrics
    return metrics.get("val_knn_accuracy", -metrics["last_loss"])


def typed_difference(config: dict[str, Any], recorded: dict[str, Any], words: Sequence[str]) -> str | None:
    """The first word of a command line that says other than what was recorded, as one line; speed and `resume` aside."""
    names = [word.lstrip("+~").partition("=")[0].partition("@")[0] for word in words]
    names = [name for name in names if name.partition(".")[0] not in (*SPEED, "resume")]
    found = (first_difference(_said(name, config), _said(name, recorded), name.replace("experiment", "")) for name in names)
    return next((line for line in found if line is not None), None)


def _said(name: str, config: dict[str, Any]) -> Any:
    """What a configuration says of a word's setting: of a group its choice, of an experiment everything."""
    if name == "experiment":
        return {key: value for key, value in config.items() if key != "continued"}
    if name in config["names"]:
        return config["names"][name]
    node: Any = config
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return _classes(node) if isinstance(node, dict) and "_target_" in node else node


def _classes(node: dict[str, Any]) -> dict[str, Any]:
    """What tells the choices of a group apart of which none is recorded."""
    parts = {key: _classes(value) for key, value in node.items() if isinstance(value, dict)}
    return parts | {"_target_": node.get("_target_")}


def first_difference(ours: Any, theirs: Any, name: str = "") -> str | None:
    """The first setting in which two configurations differ, as one line; speed and `resume` aside."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in dict.fromkeys((*ours, *theirs)) if name or key not in (*SPEED, "resume")]
        found = (first_difference(ours.get(key), theirs.get(key), f"{name}.{key}" if name else key) for key in keys)
        return next((line for line in found if line is not None), None)
    return None if ours == theirs else f"{name} is {theirs} there, {ours} here"
