"""One run: its folder, its configuration, where it resumes, and what it leaves behind."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout
from torch import nn

from datamodules.spec import DataSpec
from errors import BadInput, RunStopped
from models.export import save_encoder
from reports.result import Result, read_result
from training.budget import Budget
from training.checkpoint_files import newest_checkpoint
from training.checkpoints import remove
from training.configuration import SPEED, gone_on_with, read_config
from training.continuation import Start
from training.energy import Energy
from training.memory import peak_memory_bytes
from training.monitors import Monitors
from training.optimization import REFERENCE_BATCH
from training.pretraining import Pretraining
from training.progress import samples_per_second
from training.ranks import sum_over_ranks

VERSIONS = ("torch", "torchvision", "lightning", "hydra-core", "timm", "transformers")
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

    def _taken(self) -> BadInput:
        return BadInput(
            f"'{self.folder}' holds a run already; go on with it by resume={self.folder} or give another hydra.run.dir"
        )

    @classmethod
    def _reopen(cls, folder: Path, config: dict[str, Any]) -> "Run":
        if not (folder / "config.yaml").exists():
            raise BadInput(f"'{folder}' holds no run to resume: there is no config.yaml")
        recorded = read_config(folder)
        run = cls(folder, recorded | {node: config[node] for node in SPEED}, begun=True)
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

    def announce(
        self,
        module: Pretraining,
        spec: DataSpec,
        budget: Budget,
        flops: float,
        resolved: dict[str, str],
        begins: str | None = None,
    ) -> None:
        """Print what was resolved, before the first step."""
        names, recipe, batch = self.config["names"], module.optimization, module.batch_size
        encoder = module.objective.encoder
        patches = f", {encoder.num_patches} patches of {encoder.patch_size} px" if encoder.num_patches else ""
        shape = {
            "image": f"samples, {spec.image_size} px, {spec.num_classes} classes",
            "text": f"blocks of {spec.block_length} tokens",
            "image_text": f"pairs, {spec.image_size} px, captions of up to {spec.block_length} tokens",
        }[spec.modality]
        shape += f", vocabulary {spec.vocabulary.size:,}" if spec.vocabulary is not None else ""
        lines = {
            "run": str(self.folder) + (f" (resumed at step {self.first_step})" if self.first_step else ""),
            "objective": f"{names['objective']}, {flops:.3g} FLOPs a sample",
            "model": f"{names['model']}, {num_parameters(encoder):,} parameters of {num_parameters(module):,} trained{patches}",
            **{
                setting: f"{self.config['objective'][setting]}, {num_parameters(part):,} parameters"
                for name, part in module.objective.exports().items()
                if (setting := name.replace("_encoder", "_model")) in self.config["objective"]
            },
            **({"begins": begins} if begins else {}),
            "data": f"{spec.name}, {spec.num_train:,} training {shape}",
            "budget": budget_line(budget, module, spec, flops),
            "lr": f"{recipe.base_lr:g} x batch {batch} / {REFERENCE_BATCH} = {recipe.peak_lr(batch):g}, "
            f"warm-up {recipe.warmup:g} of the steps, then cosine",
            "speed": ", ".join(f"{name} {value}" for name, value in resolved.items()),
        }
        width = max(map(len, lines))
        for name, line in lines.items():
            print(f"{name:>{width}}  {line}", flush=True)

    def finish(
        self,
        module: Pretraining,
        spec: DataSpec,
        budget: Budget,
        flops: float,
        resolved: dict[str, str],
        monitors: Monitors,
        energy: Energy,
    ) -> float:
        """Export what was learned, write the result, print where things are and what to type next.

        Only the first rank does; the others help it to gather the weights.

        Returns:
            The validation k-NN accuracy, or minus the last loss where there is none.
        """
        if not module.course.finished:
            raise RunStopped(f"training ended at {module.course.position}", 1, everywhere=True)
        corrupt_samples = sum_over_ranks(module.corrupt_samples)
        with module.whole() as objective:
            if objective is None:
                return 0.0
            weights = {name: save_encoder(part, self.folder, name) for name, part in objective.exports().items()}
        names, encoder = self.config["names"], module.objective.encoder
        watch, samples = module.watch, module.course.step * module.batch_size
        metrics = {"first_loss": module.first_loss.item(), "last_loss": module.loss.item(), **monitors.metrics}
        result = Result(
            kind="pretrain",
            objective=names["objective"],
            model=self.start.label,
            data=spec.name,
            seed=self.config["seed"],
            budget_asked={"unit": budget.unit, "amount": budget.amount},
            budget_spent={
                "steps": module.course.step,
                "samples": samples,
                "epochs": samples / spec.num_train,
                "flops": samples * flops,
                "minutes": watch.seconds / 60,
            }
            | ({"tokens": samples * spec.block_length} if spec.modality == "text" else {})
            | energy.spent,
            parameters={"encoder": num_parameters(encoder), "total": num_parameters(module)},
            samples_per_second=samples_per_second(module),
            seconds=watch.seconds + watch.paused,
            peak_memory_bytes=peak_memory_bytes(),
            metrics=metrics,
            settings={
                **resolved,
                "monitor_seconds": watch.paused,
                "corrupt_samples": corrupt_samples,
                "resumed_at_step": self.first_step,
                **self.start.record,
            },
            versions=versions(),
            git_commit=git_commit(),
        )
        path = result.write(self.folder)
        print(f"loss {metrics['first_loss']:.4f} -> {metrics['last_loss']:.4f} in {result.seconds:.0f} s", end="")
        print(f", {corrupt_samples} corrupt pictures replaced" if corrupt_samples else "")
        print("  ".join(f"{name} {value:.4g}" for name, value in monitors.metrics.items()))
        transfer = "retrieval" if "pair" in weights else "linear"
        places = {
            "result": path,
            **weights,
            "look": f"tensorboard --logdir {self.folder / 'tensorboard'}",
            "next": f"python finetune.py checkpoint={self.folder} transfer={transfer}",
        }
        for name, place in places.items():
            print(f"{name + ':':<{max(map(len, places)) + 1}} {place}")
        if self._lock is not None:
            self._lock.release()
        return score(self.folder)


def resumed(config: dict[str, Any], folder: str | Path, words: Sequence[str]) -> dict[str, Any]:
    """The settings of a command line; where a run is gone on with, `trainer` and `monitor` are its own, but for what was typed.

    Raises:
        BadInput: its config.yaml is damaged.
    """
    begun = config["resume"] is not None and (Path(folder) / "config.yaml").exists()
    return gone_on_with(config, Path(folder), words) if begun else config


def score(folder: str | Path) -> float:
    """What a search over settings maximises: a run's validation k-NN accuracy, or minus its last loss where there is none."""
    metrics = read_result(Path(folder) / "result.json").metrics
    return metrics.get("val_knn_accuracy", -metrics["last_loss"])


def first_difference(ours: Any, theirs: Any, name: str = "") -> str | None:
    """The first setting in which two configurations differ, as one line; speed and `resume` aside."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in dict.fromkeys((*ours, *theirs)) if name or key not in (*SPEED, "resume")]
        found = (first_difference(ours.get(key), theirs.get(key), f"{name}.{key}" if name else key) for key in keys)
        return next((line for line in found if line is not None), None)
    return None if ours == theirs else f"{name} is {theirs} there, {ours} here"


def budget_line(budget: Budget, module: Pretraining, spec: DataSpec, flops: float) -> str:
    """What the run will come to, as far as that is known before its first step."""
    batch = module.batch_size
    if module.course.timed:
        return f"{budget.amount:g} minutes of training time, {batch} samples and {batch * flops:.3g} FLOPs a step"
    samples = module.course.most_steps * batch
    tokens = f"{samples * spec.block_length:,} tokens, " if spec.block_length else ""
    return (
        f"{module.course.most_steps:,} steps x {batch} samples = {samples / spec.num_train:.2f} epochs, "
        f"{tokens}{samples * flops:.3g} FLOPs"
    )


def num_parameters(module: nn.Module) -> int:
    """How many numbers are learned or fixed in a module's parameters."""
    return sum(weight.numel() for weight in module.parameters())


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    return {package: version(package) for package in VERSIONS} | {"headstart": version("headstart")}


def git_commit() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ from it; None outside a repository."""
    home = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
