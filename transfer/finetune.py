"""Full fine-tuning with layer-wise learning-rate decay (He et al. 2022, appendix A.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim import Optimizer

from datamodules.images import ImageData, batches
from models.attention import set_attention
from models.encoder import Encoder
from objectives.supervised import Supervised
from training.optimization import Optimization
from training.pretraining import Pretraining
from training.progress import ProgressLine
from training.trainer import build_trainer, prepare_speed
from transfer.features import frozen
from transfer.protocol import Bench, scores


@dataclass(frozen=True)
class FineTune:
    """Encoder and a new linear head, trained on the labels; the last epoch is what counts.

    Attributes:
        algorithm: an optimiser class with its settings filled in.
        epochs: over the labelled training pictures, at least `min_steps` steps.
        min_steps: so that a small label fraction is not left untrained.
        batch_size: samples a step, at most the number of labels.
        base_lr, weight_decay, layer_decay, warmup, clip_norm: as in `Optimization`.
        label_smoothing, mix: as in the objective `supervised` (mix: Mixup and CutMix).
        crop_scale: area range of the random resized crop.
        drop_path: stochastic depth of the last block while fine-tuning.
    """

    algorithm: Callable[..., Optimizer]
    epochs: int = 10
    min_steps: int = 100
    batch_size: int = 64
    base_lr: float = 2e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warmup: float = 0.1
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.1
    mix: float = 0.0
    crop_scale: tuple[float, float] = (0.35, 1.0)
    drop_path: float = 0.1

    def __call__(self, encoder: Encoder, data: ImageData, bench: Bench) -> dict[str, float]:
        batch_size = min(self.batch_size, data.spec.num_train)
        num_steps = max(self.min_steps, self.epochs * data.spec.num_train // batch_size)
        objective = Supervised(encoder, data.spec, self.label_smoothing, self.crop_scale, self.mix)
        encoder.set_drop_path(self.drop_path)
        prepare_speed(objective, bench.trainer)
        optimization = Optimization(
            self.algorithm, self.base_lr, self.weight_decay, self.warmup, self.clip_norm, self.layer_decay
        )
        module = Pretraining(objective, optimization, num_steps, batch_size, bench.seed)
        trainer = build_trainer(bench.trainer, bench.folder, num_steps, self.clip_norm, [ProgressLine()])
        loader = data.train_loader(
            objective.views(), bench.seed, num_steps, workers=bench.trainer["workers"], batch_size=batch_size
        )
        trainer.fit(module, loader)
        set_attention(objective, "sdpa")  # evaluation has no backward pass
        validation = scores(*predict(objective, data, "val"), prefix="val_")
        return scores(*predict(objective, data, "test")) | {
            "val_accuracy": validation["val_accuracy"],
            "steps": num_steps,
        }


def predict(objective: Supervised, data: ImageData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, labels) over a split, each (n,)."""
    device = objective.head.weight.device
    predicted, labels = [], []
    with frozen(objective):
        for batch in batches(data.evaluation_loader(split)):
            predicted.append(objective.classify(batch["views"][:, 0].to(device)).argmax(1).cpu())
            labels.append(batch["label"])
    return torch.cat(predicted).numpy(), torch.cat(labels).numpy()
