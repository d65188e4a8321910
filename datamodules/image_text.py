"""Pictures with captions as batches of tensors, whatever collection they come from.

A collection (emoji, a table of paths, shards) says where its pictures are and what their captions are; the splits, the
order, decoding, tokenising and batching are here, the same for all.

Shapes: B samples, V views, C channels, H = W image size, L tokens of the longest caption (a multiple of 8).
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.counter import sample_keys, scramble, shift_right
from datamodules.images import ImageData
from datamodules.loading import batch_loader, complete_loader
from datamodules.order import Order
from datamodules.rows import ROUND, RowMaker, Texts
from datamodules.samples import EvaluationView, Pictures, Reindexed, Samples
from datamodules.spec import DataSpec
from datamodules.splits import complete
from datamodules.text_task import TextTask
from datamodules.tokenizer import tokenizer_for
from datamodules.vocabulary import Vocabulary
from errors import BadInput


@dataclass(frozen=True)
class Captioned:
    """One split.

    Attributes:
        pictures: with labels, or without.
        captions: index -> the captions of that picture, at least one, none empty; picklable.
        content: changes whenever a caption does; can be written as JSON.
    """

    pictures: Pictures
    captions: Callable[[int], tuple[str, ...]]
    content: object

    @classmethod
    def listed(cls, pictures: Pictures, captions: list[tuple[str, ...]]) -> "Captioned":
        """With captions that are in memory."""
        content = hashlib.sha256("\0".join(map(repr, captions)).encode(errors="replace")).hexdigest()
        return cls(pictures, captions.__getitem__, content)

    @property
    def num(self) -> int:
        return self.pictures.num

    @property
    def labels(self) -> np.ndarray | None:
        return self.pictures.labels

    def subset(self, indices: np.ndarray) -> "Captioned":
        content = [self.content, hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()]
        return Captioned(self.pictures.subset(indices), Reindexed(self.captions, indices), content)


class ImageTextData:
    """An opened image-text data set: `spec`, and loaders over its splits.

    Args:
        name: as on the command line.
        splits: "train" and, where the collection has them, "val" and "test". What it has not is carved from train.
        class_names: in label order; empty where pictures have no labels.
        tokenizer: how one is trained on the training captions or selected, as `tokenizer_for` takes it, or a vocabulary.
        image_size: side of the pictures that the loaders give.
        batch_size: the global training batch, in pairs.
        max_length: tokens of the longest caption, start and end included; longer ones are cut.
        fixed_length: fill every caption up to `max_length`, so that all batches have one shape.
        val_fraction, split_seed: of the carving.
        task_name: under which results of the image task are filed; `name` where it is None.
        cache: folder of trained tokenizers; None is $HEADSTART_CACHE or ~/.cache/headstart.

    Attributes:
        rows: list of texts -> {"ids": (B, L) int64, "present": (B, L) bool}: start, text, end.
    """

    modality = "image_text"

    def __init__(
        self,
        name: str,
        splits: dict[str, Captioned],
        class_names: list[str],
        tokenizer: dict | Vocabulary,
        image_size: int,
        batch_size: int,
        max_length: int = 32,
        fixed_length: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        channels: int = 3,
        task_name: str | None = None,
        cache: str | None = None,
    ):
        if max_length < ROUND:
            raise BadInput(f"datamodule.max_length={max_length} is too short: at least {ROUND} tokens")
        self.splits = splits = complete(splits, val_fraction, split_seed, name)
        train = splits["train"]
        if batch_size < 1 or batch_size > train.num:
            few = f"'{name}' has {train.num} training pairs, so at most {train.num}"
            raise BadInput(f"datamodule.batch_size={batch_size} does not fit: {few}")
        self.batch_size, self.task_name = batch_size, task_name or name
        if not isinstance(tokenizer, Vocabulary):
            tokenizer = Vocabulary(tokenizer_for(tokenizer, lambda limit: _sample(train, limit), train.content, cache))
        if tokenizer.end is None:
            raise BadInput("the tokenizer has no end token ([SEP], </s>), at which a caption's features are read")
        self.spec = DataSpec(
            name,
            self.modality,
            train.num,
            image_size,
            channels,
            tuple(class_names),
            block_length=max_length,
            vocabulary=tokenizer,
        )
        self.rows = RowMaker(tokenizer, max_length, fixed_length)

    @cached_property
    def task(self) -> ImageData | None:
        """The pictures and their labels alone, where there are labels; the splits are the same."""
        if not self.spec.class_names:
            return None
        spec, splits = self.spec, {split: part.pictures for split, part in self.splits.items()}
        names = list(spec.class_names)
        return ImageData(self.task_name, splits, names, spec.image_size, self.batch_size, channels=spec.channels)

    @cached_property
    def caption_task(self) -> TextTask | None:
        """The first caption of each picture and its label: what `task` is to image encoders, for text encoders."""
        if not self.spec.class_names:
            return None
        texts = {
            split: Texts([captions[:1] for captions in self.captions(split)], part.labels)
            for split, part in self.splits.items()
        }
        spec = self.spec
        return TextTask(spec.name, texts, list(spec.class_names), spec.vocabulary, spec.block_length, self.batch_size)

    def captions(self, split: str) -> list[tuple[str, ...]]:
        """All captions of each picture, in the order of the split."""
        part = self.splits[split]
        return [tuple(part.captions(index)) for index in range(part.num)]

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
        """Training batches in their order.

        {"views": (B, V, C, H, W) uint8, "ids": (B, L) int64, "present": (B, L) bool, "epoch", "index": (B,), "corrupt"}.
        Of several captions each epoch draws one. `view(pictures, seed, epoch, index)` is what the objective wants done to
        pictures. A corrupt picture is replaced, with its caption, by the next readable one, and counted in "corrupt".
        """
        part = self.splits["train"]
        view = view or EvaluationView(self.spec.image_size)
        samples = Samples(part.pictures, self.spec.channels, view, seed, substitute=True)
        shard = part.pictures.shard
        order = Order(part.num, batch_size or self.batch_size, num_batches, seed, first_batch, rank, world_size, shard)
        return batch_loader(CaptionedSamples(samples, part.captions, self.rows, drawn=True), order, workers)

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Each picture of a split once, in order, evaluation view, with its first caption.

        {"views": (B, 1, C, H, W) uint8, "ids", "present": (B, L), "label", "index": (B,)}. Corrupt pictures are left out.
        `limit` takes that many pictures, evenly spaced.
        """
        part = self.splits[split]
        samples = Samples(part.pictures, self.spec.channels, EvaluationView(self.spec.image_size), 0, substitute=False)
        return complete_loader(CaptionedSamples(samples, part.captions, self.rows, drawn=False), part.num, limit, workers)


class CaptionedSamples(Dataset):
    """A list of (epoch, index) -> one batch; without state.

    Args:
        samples: the pictures.
        captions: index -> the captions of that picture.
        rows: texts -> rows of ids.
        drawn: whether one of several captions is drawn, in training; else the first is taken.
    """

    def __init__(self, samples: Samples, captions: Callable[[int], tuple[str, ...]], rows: RowMaker, drawn: bool):
        self.samples, self.captions, self.rows, self.drawn = samples, captions, rows, drawn

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        batch, shown = self.samples.read(pairs)
        captions = [self.captions(index) for index in shown]
        chosen = [0] * len(captions)
        if self.drawn:
            del batch["label"]
            counts = torch.tensor([len(several) for several in captions], dtype=torch.long)
            chosen = drawn(self.samples.seed, batch["epoch"], batch["index"], counts).tolist()
        return batch | self.rows([several[number] for several, number in zip(captions, chosen, strict=True)])


def drawn(seed: int, epoch: Tensor, index: Tensor, counts: Tensor) -> Tensor:
    """(B,) int64 in [0, counts): which caption a sample has in an epoch; uniform, and a function of nothing else."""
    return shift_right(scramble(sample_keys(seed, epoch, index) ^ zlib.crc32(b"caption")), 1) % counts


def _sample(part: Captioned, max_bytes: int) -> Iterator[str]:
    """Captions in an order that is fixed but mixed, up to about so many bytes."""
    size = 0
    for index in np.random.default_rng(0).permutation(part.num):
        for caption in part.captions(int(index)):
            yield caption
            size += len(caption)
        if size >= max_bytes:
            return
