"""Two data sets in one batch: mostly the new one, and a share of an old one that must not be forgotten.

Shapes: B samples of a batch, L tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.contract import Data
from datamodules.loading import batch_loader
from errors import BadInput

ALIKE = ("modality", "image_size", "channels", "block_length")  # facts of data sets that share batches
OLD = 1 << 32  # what the seed of the old data's order and views differs in from the run's: each data set counts from 0


class Replay:
    """A data set of whose training batches a share comes from another one; everything else is the new one's.

    The share is the same in every batch. `spec.num_train` counts the samples, old ones included, in which each new one comes
    once. Old samples are numbered behind the new ones and cropped by another seed, so that no two of a batch share their draws.

    Raises:
        BadInput: the two have other shapes, or there is less than one old or one new sample in a batch.
    """

    def __init__(self, new: Data, old: Data, share: float):
        for fact in ALIKE:
            ours, theirs = getattr(new.spec, fact), getattr(old.spec, fact)
            if ours != theirs:
                raise BadInput(
                    f"'{old.spec.name}' cannot be replayed into '{new.spec.name}': its {fact} is {theirs}, not {ours}"
                )
        self.new, self.old, self.share = new, old, share
        self.modality, self.batch_size = new.modality, new.batch_size
        self.task, self.caption_task = new.task, getattr(new, "caption_task", None)
        num_old = self.num_old(self.batch_size)
        if not 0 < num_old < self.batch_size:
            raise BadInput(f"replay={share} of datamodule.batch_size={self.batch_size} is {num_old} samples of a batch")
        whole = round(new.spec.num_train * self.batch_size / (self.batch_size - num_old))
        self.spec = replace(new.spec, num_train=whole, replayed=old.spec)

    def num_old(self, batch_size: int) -> int:
        return round(self.share * batch_size)

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
        """Training batches: first the new samples, each data set in its own order.

        Raises:
            BadInput: the ranks cannot share both parts evenly.
        """
        batch_size = batch_size or self.batch_size
        num_old = max(1, self.num_old(batch_size))
        if num_old % world_size or (batch_size - num_old) % world_size:
            raise BadInput(
                f"{num_old} replayed and {batch_size - num_old} new samples cannot be shared evenly by {world_size} ranks; "
                "change replay or datamodule.batch_size"
            )
        parts = [
            data.train_loader(view, its_seed, num_batches, first_batch, 0, rank, world_size, batch_size=num)
            for data, its_seed, num in ((self.new, seed, batch_size - num_old), (self.old, seed ^ OLD, num_old))
        ]
        samples = Mixed(*(part.dataset for part in parts), self.new.spec.num_train, self._pad())
        order = Together(*(part.batch_sampler for part in parts), self.new.spec.num_train)
        return batch_loader(samples, order, workers)

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Of the new data."""
        return self.new.evaluation_loader(split, limit, workers)

    def _pad(self) -> int:
        return self.spec.vocabulary.pad if self.spec.vocabulary is not None else 0


class Together(Sampler[list[tuple[int, int]]]):
    """Batches of both orders as one; the indices of the second begin at `num_first`."""

    def __init__(self, first: Sampler, second: Sampler, num_first: int):
        self.first, self.second, self.num_first = first, second, num_first

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for ours, theirs in zip(self.first, self.second, strict=True):
            yield ours + [(epoch, self.num_first + index) for epoch, index in theirs]


class Mixed(Dataset):
    """A list of (epoch, index) -> one batch of both; samples from `num_first` on are the second's; without state."""

    def __init__(self, first: Dataset, second: Dataset, num_first: int, pad_id: int):
        self.first, self.second, self.num_first, self.pad_id = first, second, num_first, pad_id

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        ours = self.first.__getitems__([pair for pair in pairs if pair[1] < self.num_first])
        theirs = self.second.__getitems__([(epoch, i - self.num_first) for epoch, i in pairs if i >= self.num_first])
        theirs["index"] = theirs["index"] + self.num_first
        return {name: self._joined(name, ours[name], theirs[name]) for name in ours.keys() & theirs.keys()}

    def _joined(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor:
        if ours.ndim == 0:  # counts
            return ours + theirs
        if name in ("ids", "present") and ours.shape[1] != theirs.shape[1]:  # captions, each filled up to its own longest
            length, filler = max(ours.shape[1], theirs.shape[1]), self.pad_id if name == "ids" else 0
            ours, theirs = (pad(rows_BL, (0, length - rows_BL.shape[1]), value=filler) for rows_BL in (ours, theirs))
        return torch.cat([ours, theirs])
