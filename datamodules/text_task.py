"""A labelled task of sentences or pairs of sentences, whatever files it comes from."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from torch.utils.data import DataLoader

from datamodules.corpus import clean
from datamodules.loading import batch_loader, complete_loader
from datamodules.order import Order
from datamodules.rows import ROUND, Rows, Texts
from datamodules.spec import DataSpec
from datamodules.splits import Labelled, complete
from datamodules.tokenizer import tokenizer_for
from datamodules.vocabulary import Vocabulary
from errors import BadInput, nearest

__all__ = ["TextTask", "Texts"]

METRICS = ("accuracy", "matthews", "spearman")


class TextTask(Labelled):
    """An opened labelled task: `spec`, and loaders over its splits.

    Args:
        name: as results are filed under.
        splits: "train" and, where the task has them, "val" and "test". What it has not is carved from train.
        class_names: in label order; empty for a regression.
        tokenizer: settings as `tokenizer_for` takes them (by default trained on the task's own texts), or a vocabulary.
        max_length: tokens of the longest row, special tokens included; longer texts are cut, the longer of a pair first.
        batch_size: the global training batch.
        val_fraction, split_seed: of the carving.
        selection: the metric that choices are made by: "accuracy", "matthews" or "spearman" (a regression).
        cache: folder of trained tokenizers; None is $HEADSTART_CACHE or ~/.cache/headstart.
    """

    modality = "text"

    def __init__(
        self,
        name: str,
        splits: dict[str, Texts],
        class_names: list[str],
        tokenizer: dict | Vocabulary,
        max_length: int = 128,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        selection: str = "accuracy",
        cache: str | None = None,
    ):
        if selection not in METRICS:
            raise BadInput(f"datamodule.selection='{selection}' is not a metric; {nearest(selection, METRICS)}")
        if max_length < ROUND:
            raise BadInput(f"datamodule.max_length={max_length} is too short: at least {ROUND} tokens")
        if not splits["train"].num:
            raise BadInput(f"'{name}' has no training texts")
        self.splits = splits = complete(splits, val_fraction, split_seed, name)
        num_train = splits["train"].num
        if batch_size < 1 or batch_size > num_train:
            few = f"'{name}' has {num_train} training texts, so at most {num_train}"
            raise BadInput(f"datamodule.batch_size={batch_size} does not fit: {few}")
        self.batch_size = batch_size
        if isinstance(tokenizer, Vocabulary):
            vocabulary = tokenizer
        else:
            texts = splits["train"].texts
            content = hashlib.sha256("\0".join(map(repr, texts)).encode()).hexdigest()
            vocabulary = Vocabulary(tokenizer_for(tokenizer, lambda limit: _strings(texts, limit), content, cache))
        validation = Rows(splits["val"], vocabulary, max_length)
        self._rows: dict[int, tuple[Texts, Rows]] = {id(splits["val"]): (splits["val"], validation)}
        self.spec = DataSpec(
            name,
            self.modality,
            num_train,
            class_names=tuple(class_names),
            block_length=max_length,
            vocabulary=vocabulary,
            bytes_per_token=validation.bytes_per_token,
            selection=selection,
        )

    def _of(self, split: str) -> "Rows":
        """The rows of a split, tokenised when they are first asked for, those of "val" with the opening."""
        texts = self.splits[split]
        if id(texts) not in self._rows:  # the entry holds its texts, so no other object gets their id
            self._rows[id(texts)] = texts, Rows(texts, self.spec.vocabulary, self.spec.block_length)
        return self._rows[id(texts)][1]

    def train_loader(
        self,
        view: None,
        seed: int,
        num_batches: int,
        first_batch: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> DataLoader:
        """Training batches of texts of about one length, as `Rows` makes them; texts have no `view`."""
        if view is not None:
            raise BadInput(f"the objective makes its samples of running text, but '{self.spec.name}' is a labelled task")
        rows = self._of("train")
        order = Order(
            len(rows), batch_size or self.batch_size, num_batches, seed, first_batch, rank, world_size, lengths=rows.lengths
        )
        return batch_loader(rows, order, workers)

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Each text of a split once, short ones first. `limit` takes that many texts, evenly spaced."""
        rows = self._of(split)
        return complete_loader(rows, len(rows), limit, workers, lengths=rows.lengths)


def _strings(texts: list[tuple[str, ...]], max_bytes: int) -> Iterator[str]:
    """All strings; of more than `max_bytes` an evenly spread share."""
    size = sum(len(string) for strings in texts for string in strings)
    step = max(1, -(-size // max_bytes))
    return (clean(string, Counter())[0] for strings in texts[::step] for string in strings)
