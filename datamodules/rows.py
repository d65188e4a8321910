"""Sentences and pairs of sentences as padded rows of ids.

Shapes: B rows, T texts a row (one or two), L tokens of the longest row (a multiple of 8, at most `max_length`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

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


class RowMaker:
    """Texts, or their ids, -> padded rows.

    A row is: start, first text, end, and for pairs second text, end; of start and end what the vocabulary has. Texts that
    are too long are cut, the end token stays.

    Args:
        max_length: of a row, start and end included.
        fixed_length: fill all rows up to `max_length`, so that batches have one shape.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, fixed_length: bool = False):
        self.vocabulary, self.max_length, self.fixed_length = vocabulary, max_length, fixed_length
        self._tokenizing: FastTokenizing | None = None

    def tokenise(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids of all texts one after the other, how many each has)."""
        if self._tokenizing is None:
            self._tokenizing = FastTokenizing(self.vocabulary.tokenizer)
        return self._tokenizing([clean(text, Counter())[0] for text in texts])

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """{"ids": (B, L) int64, "present": (B, L) bool}, one text a row."""
        ids, lengths = self.tokenise(texts)
        return self.rows(ids, lengths[:, None])

    def rows(self, ids: np.ndarray, lengths_BT: np.ndarray) -> dict[str, Tensor]:
        """As above, and for pairs "segment": (B, L) int64, 0 for the first text, 1 for the second.

        Args:
            ids: of all texts one after the other, those of a row together.
            lengths_BT: how many each of a row's T texts has.
        """
        num, per_row = lengths_BT.shape
        start, end = self.vocabulary.start, self.vocabulary.end
        kept_BT = self.kept(lengths_BT)
        ends_BT = (start is not None) + np.cumsum(kept_BT + (end is not None), 1)
        longest = int(ends_BT[:, -1].max(initial=1))
        length = self.max_length if self.fixed_length else min(self.max_length, -(-longest // ROUND) * ROUND)
        rows_BL = np.full((num, length), self.vocabulary.pad, np.int64)
        if start is not None:
            rows_BL[:, 0] = start
        place = np.arange(length)
        number, within = np.repeat(np.arange(lengths_BT.size), lengths_BT.ravel()), _counted(lengths_BT.ravel())
        for text in range(per_row):
            kept, after = kept_BT[:, text, None], ends_BT[:, text, None] - (end is not None)
            taken = (number % per_row == text) & (within < kept_BT.ravel()[number])
            rows_BL[(place >= after - kept) & (place < after)] = ids[taken]
            if end is not None:
                rows_BL[np.arange(num), after[:, 0]] = end
        present = place < ends_BT[:, -1:]
        batch = {"ids": rows_BL, "present": present}
        if per_row == 2:
            batch["segment"] = (present & (place >= ends_BT[:, :1])).astype(np.int64)
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def kept(self, lengths_BT: np.ndarray) -> np.ndarray:
        """(B, T): how many ids of each text a row has room for."""
        per_row = lengths_BT.shape[1]
        room = self.max_length - (self.vocabulary.start is not None) - (self.vocabulary.end is not None) * per_row
        return np.array([truncated(lengths, room) for lengths in lengths_BT.tolist()], np.int64).reshape(-1, per_row)


class Rows(Dataset):
    """Tokenised texts; a list of (epoch, index) -> one padded batch; without state."""

    def __init__(self, texts: Texts, vocabulary: Vocabulary, max_length: int):
        self.labels, self.maker = texts.labels, RowMaker(vocabulary, max_length)
        self.per_row = len(texts.texts[0]) if texts.num else 1
        strings = [string for pair in texts.texts for string in pair]
        self.ids, lengths = self.maker.tokenise(strings)
        self.num_bytes = sum(clean(string, Counter())[1] for string in strings)
        self.lengths_NT = lengths.reshape(-1, self.per_row)
        self.lengths = self.lengths_NT.sum(1)
        self.ends = np.concatenate(([0], np.cumsum(self.lengths)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the texts for each token in their rows, end tokens included; those cut off count as of mean length."""
        num_kept = int(self.maker.kept(self.lengths_NT).sum())
        num_ends = self.lengths_NT.size * (self.maker.vocabulary.end is not None)
        return self.num_bytes * num_kept / max(1, self.lengths.sum()) / max(1, num_kept + num_ends)

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """{"ids": (B, L) int64, "present": (B, L) bool, "label", "epoch", "index": (B,), "corrupt": 0}.

        For pairs also "segment": (B, L) int64, 0 for the first text, 1 for the second.
        """
        epoch, index = np.array(pairs, np.int64).reshape(-1, 2).T
        ids = [self.ids[self.ends[row] : self.ends[row + 1]] for row in index]
        batch = self.maker.rows(np.concatenate(ids or [self.ids[:0]]), self.lengths_NT[index])
        facts = {"label": self.labels[index], "epoch": epoch.copy(), "index": index.copy()}
        return batch | {key: torch.from_numpy(value) for key, value in facts.items()} | {"corrupt": torch.tensor(0)}


def _counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each stretch of these lengths."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


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
