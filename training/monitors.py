"""What one looks at while a run goes on: pictures and texts, collapse, k-NN accuracy and likelihood on the validation split.

Monitors see the encoder in eval mode and without gradient; nothing here reaches the loss, the test split, or a draw.
"""

import math
from collections import Counter
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
from training.pretraining import LOGGED_EVERY, Pretraining
from training.progress import passes

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
        share: of the run's own compute that the probes may cost.
        sample_flops: of a training step, per sample.
        picture_flops: of one sample's forward pass through the encoder.

    Attributes:
        metrics: the latest monitored values, for the result.
    """

    def __init__(
        self,
        data: Data,
        probe: Probe,
        times: int,
        pictures: int,
        share: float = 1.0,
        sample_flops: float = 0.0,
        picture_flops: float = 0.0,
    ):
        self.data, self.probe, self.times, self.pictures = data, probe, times, pictures
        self.share, self.sample_flops, self.picture_flops = share, sample_flops, picture_flops
        self.metrics: dict[str, float] = {}
        self._sample: dict[str, Tensor] | None = None
        self._before = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "sample": self._sample}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metrics, self._sample = state["metrics"], state["sample"]

    def on_train_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        self._before = module.course.progress

    def on_train_batch_start(self, trainer: L.Trainer, module: Pretraining, batch: dict[str, Tensor], *_: Any) -> None:
        if self._sample is not None:
            return
        with module.watch.pause():
            if module.objective.shown == "val":
                batch = next(iter(self.data.evaluation_loader("val", PICTURES)))
            self._sample = {key: value[:PICTURES].cpu().clone() for key, value in batch.items() if value.ndim}
            if trainer.global_step == 0:
                with module.whole() as objective:
                    self._show_pictures(trainer, module, objective)

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        course, step_flops = module.course, self.sample_flops * module.batch_size
        if trainer.is_global_zero and (course.step % LOGGED_EVERY == 0 or course.finished):
            report = {name: float(value) for name, value in module.report.items()}
            spent = {"flops": step_flops * course.step, "seconds": module.watch.seconds}
            trainer.logger.log_metrics({"loss": module.loss.item(), "lr": module.lr} | spent | report, course.step)
        # asked anew at every step, because a run that ends by time learns only on the way how much compute it has;
        # of several ranks one evaluates and the others wait
        run_flops = step_flops * course.num_steps / trainer.world_size
        times, pictures = affordable_probes(self.times, self.pictures, self.share, run_flops, self.picture_flops)
        if passes(times, self._before, course.progress):
            with module.watch.pause(), module.whole() as objective:
                self._show_pictures(trainer, module, objective)
                self._probe(trainer, objective, pictures)
        self._before = course.progress
        if course.finished and trainer.is_global_zero:
            results = {"result/loss": module.loss.item()} | {f"result/{name}": value for name, value in self.metrics.items()}
            trainer.logger.log_hyperparams(hyperparameters(module.plain.get("config", {})), results, course.step)

    def _show_pictures(self, trainer: L.Trainer, module: Pretraining, objective: Objective | None) -> None:
        if objective is None:  # another rank has the whole of it
            return
        sample = {name: value.to(module.device) for name, value in self._sample.items()}
        training = objective.training
        objective.eval()
        with torch.no_grad():
            draw = Draw(module.seed, sample["epoch"], sample["index"])
            pictures, texts = objective.pictures(sample, draw), objective.texts(sample, draw)
        objective.train(training)
        for name, picture in pictures.items():
            trainer.logger.experiment.add_image(name, picture.float().cpu(), trainer.global_step)
        for name, text in texts.items():
            trainer.logger.experiment.add_text(name, text, trainer.global_step)

    def _probe(self, trainer: L.Trainer, objective: Objective | None, pictures: int) -> None:
        if objective is None:
            return
        queries = pictures // 3
        features, accuracy = self.probe(objective.encoder, self.data, pictures - queries, queries)
        self.metrics = {"feature_std": float(feature_std(features)), "rankme": rankme(features)}
        if accuracy is not None:
            self.metrics["val_knn_accuracy"] = accuracy
        self.metrics |= held_out(objective, self.data, queries)
        trainer.logger.log_metrics({f"monitor/{name}": value for name, value in self.metrics.items()}, trainer.global_step)


def hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """What TensorBoard's table of runs has columns for: the settings that matter for what is learned."""
    budget = {unit: amount for unit, amount in config.get("budget", {}).items() if amount is not None}
    nodes = ("names", "seed", "objective", "model", "datamodule", "optimizer")
    return {node: config[node] for node in nodes if node in config} | {"budget": budget}


@torch.inference_mode()
def held_out(objective: Objective, data: Data, num_samples: int) -> dict[str, float]:
    """How well validation text is predicted: {"val_bits_per_byte" or "val_pseudo_perplexity" ...: number}, or {}.

    Bits per byte count the bytes of the raw text, so they compare tokenizers that lose nothing of it; what others lose, such
    as capitals, costs them nothing.
    """
    if type(objective).likelihood is Objective.likelihood:
        return {}
    training, device = objective.training, next(objective.parameters()).device
    objective.eval()
    nats, num_targets = Counter(), Counter()
    for batch in data.evaluation_loader("val", num_samples):
        found = objective.likelihood({name: value.to(device) for name, value in batch.items()})
        for part in found if isinstance(found, tuple) else (found,):
            nats[part.kind] += float(part.nats)
            num_targets[part.kind] += int(part.num_targets)
    objective.train(training)
    mean = {kind: nats[kind] / max(1, num_targets[kind]) for kind in nats}
    return {
        f"val_{kind}": nats / math.log(2) / data.spec.bytes_per_token if kind == "bits_per_byte" else math.exp(nats)
        for kind, nats in mean.items()
    }


def rankme(features_QD: Tensor) -> float:
    """The effective rank: exp of the entropy of the singular values (Garrido et al. 2023, equation 1); 1 is collapse."""
    singular = torch.linalg.svdvals(features_QD.double())
    share = singular / singular.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))
