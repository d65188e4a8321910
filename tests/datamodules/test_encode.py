"""Ids by looking words up are the ids of tokenising the texts."""

import random

import numpy as np
import pytest
from made_text import ODD, WORDS, texts
from tokenizers import Tokenizer, pre_tokenizers

from datamodules import encode
from datamodules.encode import FastTokenizing, words_of
from datamodules.tokenizer import wrapped
from datamodules.tokenizer_training import train_tokenizer

SPACES = [
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    " \n ",
    "\u00a0",
    " \u00a0 ",
    "\u2003",
    "\x1c",
    "\x0b",
    "\x85",
    "\u2028",
    "",
    "\u200d",
]
ENDS = ["", "", ",", ".", "!?", "'s", "'", "\u0301", "\u2014", "\u201d", ";\u0301", "\u037e", "\x01", "_", "7"]


def strange(seed: int, num: int) -> str:
    """Words, marks and every kind of white space, in any order."""
    generator = random.Random(seed)
    pieces = WORDS + ODD + ["The", "İstanbul", "ﬁsh", "…", "42", "x" * 120]
    return "".join(generator.choice(pieces) + generator.choice(ENDS) + generator.choice(SPACES) for _ in range(num))


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request):
    return wrapped(train_tokenizer(request.param, 400, request.param != "bpe", lambda limit: iter(texts(odd=True))))


def test_looked_up_words_give_the_ids_of_the_text(tokenizer):
    batch = [strange(seed, 300) for seed in range(60)] + ["", " ", "\n\n", "x"]
    fast, slow = FastTokenizing(tokenizer), FastTokenizing(tokenizer, by_word=False)
    assert fast.words is not None
    assert slow.words is None
    for texts_ in (batch, batch[::-1], []):
        ids, lengths = fast(texts_)
        expected, expected_lengths = slow(texts_)
        assert np.array_equal(lengths, expected_lengths)
        assert np.array_equal(ids, expected)


def test_names_of_special_tokens_in_a_text_are_text(tokenizer):
    ids, _ = FastTokenizing(tokenizer)(["the [MASK] and [SEP][PAD]"])
    assert not set(ids.tolist()) & {0, 2, 3, 4}


def test_the_table_of_words_is_bounded_and_may_begin_anew(tokenizer, monkeypatch):
    monkeypatch.setattr(encode, "WORDS_KEPT", 20)
    fast, slow = FastTokenizing(tokenizer), FastTokenizing(tokenizer, by_word=False)
    for seed in range(5):
        text = [strange(seed, 50)]
        assert np.array_equal(fast(text)[0], slow(text)[0])
        assert len(fast.slots) < 250


def test_a_tokenizer_that_looks_beyond_words_gets_whole_texts():
    tokenizer = train_tokenizer("bpe", 300, True, lambda limit: iter(texts()))
    description = tokenizer.to_str()
    for cutter in (pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Metaspace()):
        other = Tokenizer.from_str(description)
        other.pre_tokenizer = cutter
        assert FastTokenizing(wrapped(other)).words is None
    other = Tokenizer.from_str(description)
    other.add_tokens(["the whale"])
    assert FastTokenizing(wrapped(other)).words is None
    assert words_of({"normalizer": None, "pre_tokenizer": None, "model": {}, "added_tokens": []}) is None
