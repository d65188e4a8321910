"""Labelled or unlabelled pictures as batches of tensors, whatever collection they come from.

A collection (emoji, a folder, a torchvision set) says where its pictures are and which class each has; the splits, the
order, decoding, skipping of corrupt files and batching are here, the same for all.

Shapes: B samples, V views, C channels, H = W image size.
"""

import copy
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.order import Order
from datamodules.samples import EvaluationView, Pictures, Samples, whole_batch
from datamodules.spec import DataSpec
from errors import BadInput


class ImageData:
    """An opened image data set: `spec`, and loaders over its splits.

    Args:
        name: as on the command line.
        splits: "train" and, where the collection has them, "val" and "test". What it has not is carved from train.
        class_names: in label order; empty for unlabelled pictures.
        image_size: side of the pictures that the loaders give; None is the collection's own size (`native_size`).
        channels: 3, or 1 for grey collections.
        batch_size: the global training batch.
        val_fraction: share of the training split that becomes the validation (or test) split where there is none.
        split_seed: of that carving.
    """

    modality = "image"

    def __init__(
        self,
        name: str,
        splits: dict[str, Pictures],
        class_names: list[str],
        image_size: int,
        batch_size: int,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        channels: int = 3,
    ):
        for split in ("test", "val"):
            if split not in splits:
                splits["train"], splits[split] = carve(splits["train"], val_fraction, split_seed, name)
        self.splits, self.batch_size = splits, batch_size
        if batch_size < 1 or batch_size > splits["train"].num:
            raise BadInput(
                f"datamodule.batch_size={batch_size} does not fit: '{name}' has {splits['train'].num} training pictures"
            )
        self.spec = DataSpec(name, self.modality, splits["train"].num, image_size, channels, tuple(class_names))

    def train_loader(
        self,
        view: Callable[..., Tensor] | None,
        seed: int,
        num_batches: int,
        first_batch: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> DataLoader:
        """Training batches in their order: {"views": (B, V, C, H, W) uint8, "label", "epoch", "index": (B,), "corrupt"}.

        `view(pictures, seed, epoch, index)` is what the objective wants done to pictures. A corrupt picture is replaced
        by the next readable one, so that batches keep their size, and counted in "corrupt".
        """
        pictures = self.splits["train"]
        samples = Samples(pictures, self.spec.channels, view or EvaluationView(self.spec.image_size), seed, substitute=True)
        order = Order(pictures.num, batch_size or self.batch_size, num_batches, seed, first_batch, rank, world_size)
        return DataLoader(samples, batch_sampler=order, collate_fn=whole_batch, **_worker_settings(workers))

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Each picture of a split once, in order, evaluation view, {"views": (B, 1, C, H, W) uint8, "label", "index"}.

        Corrupt pictures are left out. `limit` takes that many pictures, evenly spaced.
        """
        pictures = self.splits[split]
        chosen = np.arange(pictures.num)
        if limit is not None and limit < pictures.num:
            chosen = np.linspace(0, pictures.num - 1, limit).astype(int)
        samples = Samples(pictures, self.spec.channels, EvaluationView(self.spec.image_size), 0, substitute=False)
        batches = [[(0, int(i)) for i in part] for part in np.array_split(chosen, max(1, -(-len(chosen) // 256)))]
        return DataLoader(samples, batch_sampler=batches, collate_fn=whole_batch, **_worker_settings(workers))

    def with_label_fraction(self, fraction: float, seed: int) -> "ImageData":
        """The same data with a stratified share of the labels to train and to choose with; the test split stays whole.

        At least one picture of each class stays in each split.
        """
        if fraction == 1 or self.splits["train"].labels is None:
            return self
        parts = {name: self.splits[name] for name in ("train", "val")}
        parts = {name: part.subset(stratified(part.labels, fraction, seed)) for name, part in parts.items()}
        other = copy.copy(self)
        other.splits = self.splits | parts
        other.spec = replace(self.spec, num_train=parts["train"].num)
        return other

    @property
    def num_labels(self) -> int:
        """Labels that training and choosing may use."""
        return sum(self.splits[name].num for name in ("train", "val") if self.splits[name].labels is not None)


def carve(train: Pictures, fraction: float, seed: int, name: str) -> tuple[Pictures, Pictures]:
    """(what stays, what is carved off): a random share, in the proportions of the classes."""
    if not 0 < fraction < 1:
        raise BadInput(f"datamodule.val_fraction must lie between 0 and 1, not {fraction}")
    if train.num < 3:
        raise BadInput(f"'{name}' has {train.num} training pictures, too few to carve a validation and a test split from")
    labels = np.zeros(train.num, int) if train.labels is None else train.labels
    carved = stratified(labels, fraction, seed)
    stays = np.setdiff1d(np.arange(train.num), carved)
    if len(stays) == 0:  # one picture a class: then the classes cannot all be on both sides
        carved, stays = carved[: len(carved) // 2], carved[len(carved) // 2 :]
    return train.subset(stays), train.subset(carved)


def stratified(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of a share of each class, at least one of each; nested: a larger fraction contains a smaller one."""
    if not 0 < fraction <= 1:
        raise BadInput(f"a fraction must lie between 0 and 1, not {fraction}")
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))


def _worker_settings(workers: int) -> dict[str, Any]:
    if workers == 0:
        return {}
    return {
        "num_workers": workers,
        "prefetch_factor": 4,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _prepare_worker,
    }


def _prepare_worker(worker: int) -> None:
    torch.set_num_threads(1)  # decoding is parallel over workers; more threads each would only fight
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the training process answers it


def batches(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
    """Batches that hold at least one readable picture."""
    return (batch for batch in loader if len(batch["index"]))
