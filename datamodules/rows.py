"""Sentences and pairs of sentences as padded rows of ids.

Shapes: B rows, L tokens of the longest of them (a multiple of 8, at most `max_length`).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.corpus import clean
from datamodules.encode import FastTokenizing
from datamodules.vocabulary import Vocabulary

ROUND = 8  # lengths of batches are multiples of it, so that kernels meet few shapes


@dataclass(frozen=True)
class Texts:
    """One split.

    Attributes:
        texts: one or two strings a sample, the same number for all.
        labels: (num,) int64 class numbers, or float32 targets of a regression.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray

    @property
    def num(self) -> int:
        return len(self.texts)

    def subset(self, indices: np.ndarray) -> "Texts":
        return Texts([self.texts[i] for i in indices], self.labels[indices])


class Rows(Dataset):
    """Tokenised texts; a list of (epoch, index) -> one padded batch; without state.

    A row is: start, first text, end, and for pairs second text, end; of start and end what the vocabulary has.
    """

    def __init__(self, texts: Texts, vocabulary: Vocabulary, max_length: int):
        self.labels, self.max_length = texts.labels, max_length
        self.pad, self.start, self.end = vocabulary.pad, vocabulary.start, vocabulary.end
        self.per_row = len(texts.texts[0]) if texts.num else 1
        cleaned = [clean(string, Counter())[0] for strings in texts.texts for string in strings]
        self.ids, lengths = FastTokenizing(vocabulary.tokenizer)(cleaned)
        self.ends = np.concatenate(([0], np.cumsum(lengths)))
        self.lengths = lengths.reshape(-1, self.per_row).sum(1) if texts.num else lengths

    def __len__(self) -> int:
        return len(self.labels)

    def row(self, index: int) -> tuple[np.ndarray, int]:
        """(ids of one row, how many of them belong to the first text with its start and end)."""
        strings = range(index * self.per_row, (index + 1) * self.per_row)
        parts = [self.ids[self.ends[string] : self.ends[string + 1]] for string in strings]
        room = self.max_length - (self.start is not None) - (self.end is not None) * self.per_row
        kept = truncated([len(part) for part in parts], room)
        start = [] if self.start is None else [self.start]
        end = [] if self.end is None else [self.end]
        parts = [np.concatenate((part[:length], end)) for part, length in zip(parts, kept, strict=True)]
        return np.concatenate((start, *parts)), len(start) + len(parts[0])

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """{"ids": (B, L) int64, "present": (B, L) bool, "label", "epoch", "index": (B,), "corrupt": 0}.

        For pairs also "segment": (B, L) int64, 0 for the first text, 1 for the second.
        """
        rows = [self.row(index) for _, index in pairs]
        longest = max((len(ids) for ids, _ in rows), default=0)
        length = min(self.max_length, -(-max(1, longest) // ROUND) * ROUND)
        ids = np.full((len(rows), length), self.pad, np.int64)
        for line, (row, _) in zip(ids, rows, strict=True):
            line[: len(row)] = row
        place = np.arange(length)
        present = place < np.array([len(row) for row, _ in rows])[:, None]
        epoch, index = np.array(pairs, np.int64).reshape(-1, 2).T
        batch: dict[str, Any] = {"ids": ids, "present": present, "label": self.labels[index]}
        if self.per_row == 2:
            batch["segment"] = (present & (place >= np.array([first for _, first in rows])[:, None])).astype(np.int64)
        batch |= {"epoch": epoch.copy(), "index": index.copy()}
        return {key: torch.from_numpy(value) for key, value in batch.items()} | {"corrupt": torch.tensor(0)}


def truncated(lengths: list[int], room: int) -> list[int]:
    """How much of one or two texts is kept: the longer of two loses first, as in the library `tokenizers`.

    Where both are cut, they get half each, and the longer one what is odd; of two that are as long the second.
    """
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    short = min(*lengths, room // 2)
    return [short, room - short] if lengths[0] <= lengths[1] else [room - short, short]
