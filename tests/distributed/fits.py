"""What train.py does, with settings as a dictionary, on the rank where it is called; and what came out, to compare."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import Tensor

from conf import CONF, build
from objectives.draw import Draw
from training.arrangement import Arrangement, freeze_unused
from training.checkpoints import Checkpoints
from training.continuation import Start
from training.course import Steps
from training.fitting import face
from training.monitors import Monitors
from training.pretraining import Pretraining
from training.ranks import Ranks
from training.trainer import build_trainer, prepare_speed
from transfer.knn import validation_probe


@dataclass
class Fit:
    """What a run did.

    Attributes:
        losses: of each step.
        report: of the last step.
        drawn: (epoch, index) -> random bits of the objective's draw for that sample.
        metrics: of the monitors.
        weights: of the encoder, whole; only on the first rank.
    """

    losses: list[float] = field(default_factory=list)
    report: dict[str, float] = field(default_factory=dict)
    drawn: dict[tuple[int, int], int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def settings_of(words: list[str]) -> dict[str, Any]:
    """The configuration of a command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[*words, "trainer.accelerator=cpu", "trainer.precision=fp32"])
    settings = OmegaConf.to_container(config, resolve=True)
    settings["names"] = {"objective": words[0].partition("=")[2], "model": "-", "datamodule": "-"}
    return settings


class Enough(Exception):
    """A run that is cut off."""


class _Watch(L.Callback):
    def __init__(self, found: Fit, until: int | None):
        self.found, self.until = found, until

    def on_train_batch_start(self, trainer: L.Trainer, module: Pretraining, batch: dict[str, Tensor], *_: Any) -> None:
        bits = Draw(module.seed, batch["epoch"], batch["index"]).bits("noise", 1).flatten().tolist()
        self.found.drawn |= zip(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True), bits, strict=True)

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        self.found.losses.append(module.loss.item())
        self.found.report = {name: value.item() for name, value in module.report.items()}
        if trainer.global_step == self.until:
            raise Enough


def fit(
    settings: dict[str, Any],
    folder: Path,
    num_steps: int,
    until: int | None = None,
    resume: Path | None = None,
    first_step: int = 0,
    monitored: bool = False,
) -> Fit:
    """Train for `num_steps`, or save and break off after `until` of them; on all ranks, with the strategy of the settings."""
    distributed = dist.is_initialized()
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.get_world_size()) if distributed else Ranks()
    torch.manual_seed(settings["seed"])
    start = Start.of(settings)
    data = face(start.names, start.open_data())
    encoder = start.build_encoder(data.spec)
    objective = build(settings["objective"], encoder=encoder, spec=data.spec)
    optimization = build(settings["optimizer"])
    speed = settings["trainer"]
    resolved = prepare_speed(objective, speed)
    if distributed:
        freeze_unused(objective, next(iter(data.train_loader(objective.views(), 0, 1, batch_size=4))))
    plain = {"config": {}, "encoder": encoder.exported()[1]}
    arrangement = Arrangement.of(speed, resolved)
    course = Steps(num_steps)
    module = Pretraining(objective, optimization, course, data.batch_size, settings["seed"], plain, arrangement)
    found = Fit()
    monitors = Monitors(data, validation_probe, int(monitored), 40)
    callbacks = [monitors, Checkpoints(folder, until or num_steps), _Watch(found, until)]
    trainer = build_trainer(speed, folder, course, optimization.clip_norm, callbacks, ranks)
    loader = data.train_loader(objective.views(), settings["seed"], num_steps, first_step, 0, ranks.rank, ranks.size)
    with contextlib.suppress(Enough):
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    found.metrics = monitors.metrics
    with module.whole() as whole:
        if whole is not None:
            found.weights = {name: tensor.clone() for name, tensor in whole.encoder.exported()[0].items()}
    if distributed:
        dist.barrier()
    return found


def strategy(name: str) -> list[str]:
    return [f"trainer={name}", "trainer.devices=2"]


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
