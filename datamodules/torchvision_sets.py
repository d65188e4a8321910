"""Data sets that torchvision knows: CIFAR-10, CIFAR-100, STL-10, Fashion-MNIST, Flowers-102. It also verifies checksums."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image
from torchvision import datasets

from datamodules.images import ImageData
from datamodules.samples import Pictures
from errors import BadInput, nearest
from ranges import Count, Seed, ShareBelow1


@dataclass(frozen=True)
class Known:
    """How torchvision names a data set, its splits, and its size."""

    cls: type
    splits: dict[str, dict[str, Any]]
    labels: Callable[[Any], list[int]]
    image_size: int
    channels: int = 3


_train_test = {"train": {"train": True}, "test": {"train": False}}
KNOWN = {
    "cifar10": Known(datasets.CIFAR10, _train_test, lambda s: s.targets, 32),
    "cifar100": Known(datasets.CIFAR100, _train_test, lambda s: s.targets, 32),
    "stl10": Known(datasets.STL10, {"train": {"split": "train"}, "test": {"split": "test"}}, lambda s: s.labels, 96),
    "fashion_mnist": Known(datasets.FashionMNIST, _train_test, lambda s: s.targets.tolist(), 28, channels=1),
    "flowers102": Known(
        datasets.Flowers102, {split: {"split": split} for split in ("train", "val", "test")}, lambda s: s._labels, 224
    ),
}


class TorchvisionSet(ImageData):
    """A torchvision data set, downloaded into `root` when a network is there.

    Args:
        name: one of KNOWN.
        root: the folder that holds it or will.
    Other arguments as in `ImageData`.
    """

    def __init__(
        self,
        name: str,
        root: str = "data",
        image_size: Count | None = None,
        batch_size: Count = 128,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
    ):
        if name not in KNOWN:
            raise BadInput(f"torchvision set '{name}' is not known here; {nearest(name, KNOWN)}")
        known, root = KNOWN[name], os.path.expanduser(root)
        splits, class_names = {}, []
        for split, arguments in known.splits.items():
            collection = _open(known.cls, root, arguments, name)
            labels = np.array(known.labels(collection))
            class_names = list(getattr(collection, "classes", None) or map(str, range(labels.max() + 1)))
            splits[split] = Pictures(_First(collection), len(labels), labels)
        super().__init__(
            name,
            splits,
            class_names,
            image_size or known.image_size,
            batch_size,
            val_fraction,
            split_seed,
            known.channels,
        )


@dataclass(frozen=True)
class _First:
    """index -> the picture of a (picture, label) collection."""

    collection: Any

    def __call__(self, index: int) -> Image:
        return self.collection[index][0]


def _open(cls: type, root: str, arguments: dict[str, Any], name: str) -> Any:
    try:
        return cls(root, download=False, **arguments)
    except (RuntimeError, OSError, EOFError):
        pass
    try:
        return cls(root, download=True, **arguments)
    except Exception as error:  # urllib, socket, ssl and zip errors: all mean that it did not come
        reason = " ".join(str(error).split())[:160]
        raise BadInput(
            f"'{name}' is not in datamodule.root='{root}' and could not be downloaded ({reason}); "
            f"put torchvision's files for {cls.__name__} there"
        ) from error
