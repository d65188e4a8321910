"""The two sides that every objective has: train.py's own Trainer, and a bare PyTorch loop over the same objective."""

import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.gate import Gate
from benchmarks.works import ENDLESS, Batches, Work
from conf import build
from objectives.draw import Draw
from objectives.objective import Objective
from training.arrangement import Arrangement
from training.checkpoints import Checkpoints
from training.course import Steps
from training.energy import Energy
from training.flops import sample_flops
from training.monitors import Monitors
from training.optimization import Optimization
from training.pretraining import Pretraining
from training.progress import ProgressLine
from training.throughput import Throughput
from training.trainer import build_trainer, fit, prepare_speed

Settings = dict[str, Any]  # of the node `trainer`
HALF = {"bf16": torch.bfloat16}


class StepEnds(L.Callback):
    """Tells the gate when a step of a Lightning Trainer has ended, and how long it has waited for batches so far.

    Must be the last callback.
    """

    def __init__(self, gate: Gate):
        self.gate, self.waited, self._resumed = gate, 0.0, None

    def on_train_batch_start(self, *_: Any) -> None:
        if self._resumed is not None:
            self.waited += time.perf_counter() - self._resumed

    def on_train_batch_end(self, *_: Any) -> None:
        self.gate.step(waited=self.waited)
        self._resumed = time.perf_counter()


def ours(gate: Gate, work: Work, precision: str, accelerator: str = "cpu", more: Settings | None = None) -> None:
    """train.py's Trainer with its callbacks; probes and checkpoints are due at intervals which these steps do not reach."""
    settings = trainer_settings(work, precision, accelerator, more)
    objective = work.build()
    resolved = prepare_speed(objective, settings)
    batches = stored_batches(work, objective, accelerator)
    flops = sample_flops(objective, batches.batch(0), work.batch)
    gate.describe(parameters=num_trained(objective), sample_flops=flops)
    optimization: Optimization = build(work.config["optimizer"])
    course, folder = Steps(ENDLESS), Path(tempfile.mkdtemp())
    module = Pretraining(objective, optimization, course, work.batch, 0, arrangement=Arrangement.of(settings, resolved))
    monitors = Monitors(None, None, 0, 0, sample_flops=flops)
    throughput = Throughput(flops, work.units_a_step // work.batch, resolved["precision"])
    callbacks = [ProgressLine(), monitors, Energy(), Checkpoints(folder, ENDLESS), throughput, StepEnds(gate)]
    trainer = build_trainer(settings, folder, course, optimization.clip_norm, callbacks)
    fit(trainer, module, DataLoader(batches, batch_size=None))


def bare(gate: Gate, work: Work, precision: str, accelerator: str = "cpu", more: Settings | None = None) -> None:
    """A plain loop: the same objective, kernels, batches, optimiser and schedule, and nothing else."""
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    objective, settings = work.build().to(device), trainer_settings(work, precision, accelerator, more)
    resolved = prepare_speed(objective, settings)
    Arrangement.of(settings, resolved).apply(objective, None)
    gate.describe(parameters=num_trained(objective))
    optimization: Optimization = build(work.config["optimizer"])
    optimizer = optimization.optimizer(objective, work.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimization.lr_factor(step, ENDLESS))
    for cpu_batch in stored_batches(work, objective, accelerator):
        batch = {name: value.to(device, non_blocking=True) for name, value in cpu_batch.items()}
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF):
            loss = objective(batch, Draw(0, batch["epoch"], batch["index"])).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        objective.after_step(0.0)
        gate.step()


def stored_batches(work: Work, objective: Objective, accelerator: str) -> Batches:
    """The stream of a work, pinned where a GPU takes it from."""
    batches = work.batches(objective)
    return batches.pinned() if accelerator == "gpu" else batches


def trainer_settings(work: Work, precision: str, accelerator: str, more: Settings | None = None) -> Settings:
    """The node `trainer`."""
    return work.config["trainer"] | {"accelerator": accelerator, "precision": precision} | (more or {})


def num_trained(*modules: nn.Module) -> int:
    """Numbers that are learned in some modules, shared ones once."""
    weights = {id(weight): weight for module in modules for weight in module.parameters() if weight.requires_grad}
    return sum(weight.numel() for weight in weights.values())
