"""What one looks at while a run goes on: pictures and texts, collapse, k-NN accuracy and likelihood on the validation split.

Monitors see the encoder in eval mode and without gradient; nothing here reaches the loss, the test split, or a draw.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.contract import Data
from models.encoder import Encoder
from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.objective import Objective
from training.pretraining import Pretraining

SCALARS_EVERY = 10  # steps
PICTURES = 8  # samples shown

FEWEST = 96  # pictures of which a probe still says something

Probe = Callable[[Encoder, Data, int, int], tuple[Tensor, float | None]]
"""(encoder, data, bank, queries) -> (features (Q, D) of validation samples, k-NN accuracy or None without labels)."""


def affordable_probes(times: int, pictures: int, share: float, run_flops: float, picture_flops: float) -> tuple[int, int]:
    """(how often, with how many pictures) the encoder can be probed for a share of the run's own compute.

    Fewer pictures come first, then fewer probes; one probe at the end of the run is always left.
    """
    affordable = share * run_flops / max(picture_flops, 1.0)
    times = min(times, max(1, int(affordable / FEWEST)))
    return times, min(pictures, max(FEWEST, int(affordable / max(times, 1))))


class Monitors(L.Callback):
    """TensorBoard scalars and pictures, and probes of the encoder as it learns.

    Args:
        data: its validation split is probed.
        probe: gives validation features and their k-NN accuracy.
        times: how often the encoder is probed over the run; the end is always among them; 0 is never.
        pictures: a third of them are validation queries, the others the training bank that they are compared with.

    Attributes:
        metrics: the latest monitored values, for the result.
        seconds: spent in monitors.
    """

    def __init__(self, data: Data, probe: Probe, times: int, pictures: int):
        self.data, self.probe, self.times = data, probe, times
        self.queries, self.bank = pictures // 3, pictures - pictures // 3
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self._sample: dict[str, Tensor] | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: Pretraining, batch: dict[str, Tensor], *_: Any) -> None:
        if self._sample is None and trainer.is_global_zero:
            self._sample = {key: value[:PICTURES].clone() for key, value in batch.items() if value.ndim}
            if trainer.global_step == 0:
                self._show_pictures(trainer, module)

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        step, last = trainer.global_step, trainer.global_step == module.num_steps
        if step % SCALARS_EVERY == 0 or last:
            report = {name: float(value) for name, value in module.report.items()}
            trainer.logger.log_metrics({"loss": module.loss.item(), "lr": module.lr} | report, step)
        interval = max(1, module.num_steps // self.times) if self.times else module.num_steps + 1
        if (step % interval == 0 and module.num_steps - step >= interval) or (last and self.times):
            began = time.perf_counter()
            self._show_pictures(trainer, module)
            self._probe(trainer, module)
            self.seconds += time.perf_counter() - began

    def _show_pictures(self, trainer: L.Trainer, module: Pretraining) -> None:
        sample, training = self._sample, module.training
        module.eval()
        with torch.no_grad():
            draw = Draw(module.seed, sample["epoch"], sample["index"])
            pictures, texts = module.objective.pictures(sample, draw), module.objective.texts(sample, draw)
        module.train(training)
        for name, picture in pictures.items():
            trainer.logger.experiment.add_image(name, picture.float().cpu(), trainer.global_step)
        for name, text in texts.items():
            trainer.logger.experiment.add_text(name, text, trainer.global_step)

    def _probe(self, trainer: L.Trainer, module: Pretraining) -> None:
        features, accuracy = self.probe(module.objective.encoder, self.data, self.bank, self.queries)
        self.metrics = {"feature_std": float(feature_std(features)), "rankme": rankme(features)}
        if accuracy is not None:
            self.metrics["val_knn_accuracy"] = accuracy
        self.metrics |= held_out(module.objective, self.data, self.queries)
        trainer.logger.log_metrics({f"monitor/{name}": value for name, value in self.metrics.items()}, trainer.global_step)


@torch.inference_mode()
def held_out(objective: Objective, data: Data, num_samples: int) -> dict[str, float]:
    """How well validation text is predicted: {"val_bits_per_byte" or "val_pseudo_perplexity" ...: number}, or {}.

    Bits per byte count the bytes of the raw text, so they do not depend on the tokenizer.
    """
    if type(objective).likelihood is Objective.likelihood:
        return {}
    training, device = objective.training, next(objective.parameters()).device
    objective.eval()
    parts = [
        objective.likelihood({name: value.to(device) for name, value in batch.items()})
        for batch in data.evaluation_loader("val", num_samples)
    ]
    objective.train(training)
    nats = float(sum(part.nats for part in parts)) / max(1, int(sum(part.num_targets for part in parts)))
    kind = parts[0].kind
    value = nats / math.log(2) / data.spec.bytes_per_token if kind == "bits_per_byte" else math.exp(nats)
    return {f"val_{kind}": value}


def rankme(features_QD: Tensor) -> float:
    """The effective rank: exp of the entropy of the singular values (Garrido et al. 2023, equation 1); 1 is collapse."""
    singular = torch.linalg.svdvals(features_QD.double())
    share = singular / singular.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))
