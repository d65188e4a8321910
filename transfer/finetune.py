"""Full fine-tuning, of what was pre-trained with layer-wise learning-rate decay (He et al. 2022, appendix A.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.optim import Optimizer

from datamodules.contract import Task
from datamodules.loading import batches
from models.attention import set_attention
from models.encoder import Encoder
from objectives.supervised import Supervised
from objectives.supervised_text import SupervisedText
from objectives.views import CropScale
from ranges import Count, CountOr0, NotNegative, Positive, Share, ShareAbove0, ShareBelow1
from training.accumulation import check_accumulation, check_batch
from training.arrangement import Arrangement
from training.course import Steps
from training.optimization import Optimization
from training.pretraining import Pretraining
from training.progress import ProgressLine
from training.trainer import build_trainer, fit, prepare_speed
from transfer.features import frozen
from transfer.protocol import Bench, scores

USUAL = {  # He et al. 2022, table 9, at the size of an afternoon; Devlin et al. 2019, appendix A.3
    "image": {"epochs": 10, "batch_size": 64, "base_lr": 2e-3, "label_smoothing": 0.1},
    "text": {"epochs": 3, "batch_size": 32, "base_lr": 8e-4, "label_smoothing": 0.0},
}
PRETRAINED_DECAY = 0.75  # He et al. 2022, table 9


@dataclass(frozen=True)
class FineTune:
    """Encoder and a new linear head, trained on the labels; the last epoch is what counts.

    Attributes:
        algorithm: an optimiser class with its settings filled in.
        epochs: over the labelled training samples, at least `min_steps` steps; None is what the modality usually takes,
            as for `batch_size`, `base_lr` and `label_smoothing`.
        min_steps: so that a small label fraction is not left untrained.
        batch_size: samples a step, at most the number of labels.
        base_lr, weight_decay, warmup, clip_norm: as in `Optimization`.
        layer_decay: as there; None is 0.75 where the encoder has weights that came from somewhere, and 1 (off) where it begins
            at random: He et al. 2022 train from scratch without it (appendix A.2), because it protects what was learned, and
            holds back what is still to be.
        label_smoothing: share of the target spread over all classes.
        mix: Mixup and CutMix of pictures, as in the objective `supervised`.
        crop_scale: area range of the random resized crop of pictures.
        drop_path: stochastic depth of the last block while fine-tuning, or dropout where a backbone has that instead.
    """

    algorithm: Callable[..., Optimizer]
    epochs: Count | None = None
    min_steps: CountOr0 = 100
    batch_size: Count | None = None
    base_lr: Positive | None = None
    weight_decay: NotNegative = 0.05
    layer_decay: ShareAbove0 | None = None
    warmup: Share = 0.1
    clip_norm: Positive | None = 1.0
    label_smoothing: Share | None = None
    mix: Share = 0.0
    crop_scale: CropScale = (0.35, 1.0)
    drop_path: ShareBelow1 = 0.1
    learns_from: ClassVar[tuple[str, ...]] = ("train",)

    def __call__(self, encoder: Encoder, data: Task, bench: Bench) -> dict[str, float | str]:
        epochs, batch_size, base_lr, label_smoothing = (
            value if (value := getattr(self, name)) is not None else usual for name, usual in USUAL[encoder.modality].items()
        )
        batch_size = min(batch_size, data.spec.num_train)
        num_steps = max(self.min_steps, epochs * data.spec.num_train // batch_size)
        course = Steps(num_steps)
        layer_decay = self.layer_decay
        if layer_decay is None:
            layer_decay = PRETRAINED_DECAY if encoder.pretrained else 1.0
        if encoder.modality == "text":
            objective = SupervisedText(encoder, data.spec, label_smoothing, self.drop_path)
        else:
            objective = Supervised(encoder, data.spec, label_smoothing, self.crop_scale, self.mix)
        encoder.set_drop_path(self.drop_path)
        resolved = prepare_speed(objective, bench.trainer)
        objective.to(resolved["device"])
        check_parts(objective, data, bench, batch_size)
        optimization = Optimization(self.algorithm, base_lr, self.weight_decay, self.warmup, self.clip_norm, layer_decay)
        arrangement = Arrangement.of(bench.trainer, resolved)
        module = Pretraining(objective, optimization, course, batch_size, bench.seed, arrangement=arrangement)
        trainer = build_trainer(bench.trainer, bench.folder, course, self.clip_norm, [ProgressLine()])
        loader = data.train_loader(
            objective.views(), bench.seed, num_steps, workers=bench.trainer["workers"], batch_size=batch_size
        )
        fit(trainer, module, loader)
        objective.to(resolved["device"])  # Lightning leaves it on the host
        set_attention(objective, "sdpa")  # evaluation has no backward pass
        with module.whole() as trained:
            workers = bench.trainer["workers"]
            validation = scores(*predict(trained, data, "val", workers), data.spec, prefix="val_")
            test = scores(*predict(trained, data, "test", workers), data.spec)
        selected = f"val_{data.spec.selection}"
        return test | {selected: validation[selected], "steps": num_steps, "layer_decay": layer_decay}


def check_parts(objective: Supervised | SupervisedText, data: Task, bench: Bench, batch_size: int) -> None:
    """Raise BadInput where a step cannot be taken in as many parts as the trainer is asked for."""
    accumulate, device = bench.trainer["accumulate"], objective.head.weight.device
    check_batch(batch_size, 1, accumulate, "transfer.batch_size")
    if accumulate > 1:
        batch = next(iter(data.train_loader(objective.views(), bench.seed, 1, batch_size=batch_size)))
        check_accumulation(objective, {name: value.to(device) for name, value in batch.items()}, accumulate)


def predict(objective: Supervised | SupervisedText, data: Task, split: str, workers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, labels) over a split, each (n,)."""
    device = objective.head.weight.device
    predicted, labels = [], []
    with frozen(objective):
        for batch in batches(data.evaluation_loader(split, workers=workers)):
            found = objective.classify({name: value.to(device) for name, value in batch.items()}).cpu()
            predicted.append(found.argmax(1) if data.spec.num_classes else found[:, 0])
            labels.append(batch["label"])
    return torch.cat(predicted).numpy(), torch.cat(labels).numpy()
