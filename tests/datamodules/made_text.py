"""Small made-up corpora for the tests of text."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpus import Corpus, Document
from datamodules.text import TextData

PROSE = "the of and a to in he whale was that sea it his ship, is with I as not for; at by captain old. so but they all"
WORDS = PROSE.split()
STRANGE = "naïve Straße ΣΊΣΥΦΟΣ 日本語 e\u0301 (sic) don't it's -- [MASK] [SEP] \u00a0 🐋 1851 A'B"
ODD = STRANGE.split(" ")
SMALL = {"kind": "wordpiece", "vocab_size": 300}


def sentence(generator: random.Random, num: int, odd: bool = False) -> str:
    return " ".join(generator.choice(WORDS + ODD if odd else WORDS) for _ in range(num))


def texts(num: int = 30, words: int = 200, seed: int = 0, odd: bool = False) -> list[str]:
    """`num` documents of about `words` words, no two alike."""
    generator = random.Random(seed)
    return [f"{i} " + sentence(generator, generator.randint(words // 2, words * 3 // 2), odd) for i in range(num)]


def read(documents: list[str], split=lambda number: None):
    def reader(problems: Counter) -> Iterator[Document]:
        for number, text in enumerate(documents):
            yield Document([text], split(number))

    return reader


def corpus(documents: list[str], val_fraction: float = 0.1, split_seed: int = 0, split=lambda number: None) -> Corpus:
    return Corpus("made up", [documents], read(documents, split), val_fraction, split_seed)


def data(documents: list[str], folder: Path, tokenizer: dict = SMALL, split=lambda number: None, **changes) -> TextData:
    settings = {"block_length": 16, "batch_size": 4, "val_fraction": 0.1, "cache": str(folder)}
    return TextData("made up", [documents], read(documents, split), tokenizer, **(settings | changes))
