"""The contracts of an opened data set, which every data module fulfils by having these attributes."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.spec import DataSpec


class Data(Protocol):
    """What can be trained on.

    Attributes:
        modality: "image", "text" or "image_text".
        spec: what an encoder and an objective are built from.
        batch_size: global samples a step.
        task: what of it can be judged on: itself where its samples have labels, a part of it, or None.
    """

    modality: str
    spec: DataSpec
    batch_size: int
    task: "Task | None"

    def train_loader(
        self,
        view: Callable[..., Any] | None,
        seed: int,
        num_batches: int,
        first_batch: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> DataLoader:
        """Training batches in an order that depends on the seed alone; `view` is what the objective wants done to samples.

        To pictures: (pictures, seed, epoch, index) -> tensor. To running text: (blocks, seed) -> other samples.
        """

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Each sample of a split once, in an order that depends on nothing; `limit` takes that many, evenly spaced."""


class ImageText(Data, Protocol):
    """Pictures with captions: what can be searched for each other, too.

    Attributes:
        rows: texts -> {"ids": (B, L) int64, "present": (B, L) bool}, as the captions in its batches.
        caption_task: what text encoders can be judged on, as `task` is for pictures, or None.
    """

    rows: Callable[[list[str]], dict[str, Tensor]]
    caption_task: "Task | None"

    def captions(self, split: str) -> list[tuple[str, ...]]:
        """All captions of each picture, in the order of the split."""


class Task(Data, Protocol):
    """What can be judged on.

    Attributes:
        splits: "train", "val" and "test"; each has `labels`.
    """

    splits: dict[str, Any]

    def with_label_fraction(self, fraction: float, seed: int) -> "Task":
        """The same data with a stratified share of the labels to train and to choose with; the test split stays whole."""
