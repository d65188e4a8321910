"""The token stream on disk: right, made once by one of many processes, whole or not there, made anew when it must be."""

import errno
import fcntl
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from made_text import SMALL, corpus, read, texts

from datamodules import cache, token_cache
from datamodules.corpus import INVALID, NUL, PIECE, Corpus, Document, cuts
from datamodules.encode import FastTokenizing
from datamodules.token_cache import open_tokens
from datamodules.tokenizer import tokenizer_for, wrapped
from datamodules.tokenizer_training import train_tokenizer
from datamodules.vocabulary import Vocabulary
from errors import BadInput


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(wrapped(train_tokenizer("wordpiece", 300, True, lambda limit: iter(texts()))))


def plain(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_each_document_is_once_in_one_split_and_ends_with_the_end_token(vocabulary, tmp_path):
    documents = texts(40)
    streams = open_tokens(corpus(documents), vocabulary, str(tmp_path)).streams
    expected = {(*plain(vocabulary, text), vocabulary.end): len(text.encode()) for text in documents}
    for split, num in (("train", 36), ("val", 4), ("test", 0)):
        stream = streams[split]
        assert len(stream.document_ends) == num
        assert stream.num_tokens == len(stream.tokens)
        assert stream.num_bytes == stream.document_bytes.sum()
        assert stream.token_counts.tolist() == np.bincount(stream.tokens, minlength=len(vocabulary.tokenizer)).tolist()
        for ids, size in zip(np.split(stream.tokens, stream.document_ends[:-1]), stream.document_bytes, strict=num > 0):
            if num:
                assert expected.pop(tuple(ids.tolist())) == size
    assert not expected
    assert streams["train"].tokens.dtype == np.uint16


def test_splits_are_random_and_depend_on_their_seed_only(vocabulary, tmp_path):
    first, again, other = (corpus(texts(40), split_seed=seed).survey.splits.tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first.count(1) == 4


def test_a_collection_may_say_what_its_test_split_is(vocabulary, tmp_path):
    documents = texts(40)
    made = corpus(documents, split=lambda number: "test" if number % 5 == 0 else None)
    assert np.flatnonzero(made.survey.splits == 2).tolist() == list(range(0, 40, 5))
    assert (made.survey.splits == 1).sum() == 3  # a tenth of the other 32
    streams = open_tokens(made, vocabulary, str(tmp_path)).streams
    first = streams["test"].tokens[: streams["test"].document_ends[0]]
    assert first.tolist() == [*plain(vocabulary, documents[0]), vocabulary.end]


def test_the_end_of_each_of_few_documents_validates(vocabulary, tmp_path):
    documents = texts(3, words=400)
    streams = open_tokens(corpus(documents), vocabulary, str(tmp_path)).streams
    for number, text in enumerate(documents):
        train, val = (
            np.split(streams[split].tokens, streams[split].document_ends)[number].tolist() for split in ("train", "val")
        )
        assert train[:-1] + val[:-1] == plain(vocabulary, text)
        sizes = [int(streams[split].document_bytes[number]) for split in ("train", "val")]
        assert sum(sizes) == len(text.encode())
        assert 0.1 * len(text) - 20 <= sizes[1] <= 0.1 * len(text) + 1
        assert plain(vocabulary, text[sizes[0] :]) == val[:-1]  # the bytes are those of the tokens (the text is ASCII)


def test_training_texts_come_from_the_training_split_and_are_spread():
    documents = texts(100)
    made = corpus(documents)
    train = [text for text, split in zip(documents, made.survey.splits, strict=True) if split == 0]
    assert list(made.training_texts(10**9)) == train
    some = list(made.training_texts(sum(map(len, train)) // 10))
    assert 8 <= len(some) <= 10
    assert [train.index(text) // 10 for text in some] == sorted({train.index(text) // 10 for text in some})


def test_long_documents_are_cut_where_it_changes_nothing(vocabulary, tmp_path):
    text = " ".join(texts(400, words=100)) + "\n\n  \t " + "x " * 50
    assert len(text) > 2 * PIECE
    pieces = list(cuts(text))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= PIECE
    made = corpus([text, *texts(30)], split=lambda number: "train" if number == 0 else None)
    stream = open_tokens(made, vocabulary, str(tmp_path)).streams["train"]
    assert stream.tokens[: stream.document_ends[0]].tolist() == [*plain(vocabulary, text), vocabulary.end]
    assert stream.document_bytes[0] == len(text)


def test_many_batches_are_as_one(vocabulary, tmp_path, monkeypatch):
    made = corpus([*texts(40), " ".join(texts(300, words=100))])
    whole = open_tokens(made, vocabulary, str(tmp_path / "a")).streams
    monkeypatch.setattr(token_cache, "BATCH", 1000)
    parts = open_tokens(made, vocabulary, str(tmp_path / "b")).streams
    for split in ("train", "val"):
        assert np.array_equal(whole[split].tokens, parts[split].tokens)
        assert np.array_equal(whole[split].document_ends, parts[split].document_ends)
        assert np.array_equal(whole[split].document_bytes, parts[split].document_bytes)
        assert np.array_equal(whole[split].token_counts, parts[split].token_counts)


def test_what_is_wrong_with_a_text_is_counted_replaced_and_said(vocabulary, tmp_path, caplog):
    documents = texts(30)
    documents[3] = "the\0 whale\0"
    documents[4] = "half \ud83d a pair"
    documents[5] = " \n "
    made = open_tokens(corpus(documents), vocabulary, str(tmp_path))
    assert made.problems == {NUL: 2, INVALID: 1}
    assert caplog.text.count(NUL) == 1
    assert sum(len(stream.document_ends) for stream in made.streams.values()) == 29
    caplog.clear()
    assert open_tokens(corpus(documents), vocabulary, str(tmp_path)).problems == made.problems


@pytest.mark.parametrize("documents", [[], [""], [" \n", "\0"]])
def test_a_corpus_without_text_is_refused(documents, vocabulary, tmp_path):
    with pytest.raises(BadInput, match="'made up' holds no text"):
        open_tokens(corpus(documents), vocabulary, str(tmp_path))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(BadInput, match="val_fraction"):
        corpus(texts(3), val_fraction=fraction)


def test_one_cache_serves_until_an_input_changes(vocabulary, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(token_cache, "_make", lambda *args, make=token_cache._make: (made.append(1), make(*args)))
    documents, folder = texts(30), str(tmp_path)
    other = Vocabulary(wrapped(train_tokenizer("wordpiece", 90, True, lambda limit: iter(texts()))))
    open_tokens(corpus(documents), vocabulary, folder)
    open_tokens(corpus(documents), vocabulary, folder)
    open_tokens(corpus(documents), Vocabulary(vocabulary.tokenizer, num_sentinels=100), folder)  # no pieces of text
    assert len(made) == 1
    for changed in (
        (corpus([*documents[:-1], "another"]), vocabulary),
        (corpus(documents, val_fraction=0.2), vocabulary),
        (corpus(documents, split_seed=1), vocabulary),
        (corpus(documents), other),
    ):
        num = len(made)
        open_tokens(*changed, folder)
        open_tokens(*changed, folder)
        assert len(made) == num + 1


def test_the_maps_are_opened_by_each_process_for_itself(vocabulary, tmp_path):
    stream = open_tokens(corpus(texts()), vocabulary, str(tmp_path)).streams["train"]
    expected = np.array(stream.tokens)
    packed = pickle.dumps(stream)
    assert len(packed) < 1000
    assert np.array_equal(pickle.loads(packed).tokens, expected)


def test_large_vocabularies_get_four_bytes(tmp_path):
    tokenizer = wrapped(train_tokenizer("wordpiece", 300, True, lambda limit: iter(texts())))
    tokenizer.add_tokens([f"<{i}>" for i in range(1 << 16)], special_tokens=True)
    stream = open_tokens(corpus(texts()), Vocabulary(tokenizer), str(tmp_path)).streams["train"]
    assert stream.tokens.dtype == np.uint32
    assert stream.num_tokens * 4 == os.path.getsize(Path(stream.folder) / "train.tokens")


def slow_reader(seconds: float):
    def reader(problems):
        for document in read(texts(60))(problems):
            time.sleep(seconds)
            yield document

    return reader


def make(folder: str, seconds: float, making, result) -> None:
    """In a process of its own: train the tokenizer, make or open the cache; says so when the making begins."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a fork has none of the threads that its parent had
    made = Corpus("made up", "sixty", slow_reader(seconds), 0.1, 0)
    vocabulary = Vocabulary(tokenizer_for(SMALL, made.training_texts, made.identity, folder))
    really_make = token_cache._make

    def told(*arguments):
        with making.get_lock():
            making.value += 1
        really_make(*arguments)

    token_cache._make = told
    stream = open_tokens(made, vocabulary, folder).streams["train"]
    result.put((stream.num_tokens, int(stream.tokens.astype(np.int64).sum())))


def processes(num: int, folder: Path, seconds: float) -> tuple[list, object, object]:
    context = get_context("fork")
    making, result = context.Value("i", 0), context.Queue()
    started = [context.Process(target=make, args=(str(folder), seconds, making, result)) for _ in range(num)]
    for process in started:
        process.start()
    return started, making, result


def test_of_two_processes_at_once_one_makes_it_and_both_get_it(tmp_path):
    both, making, result = processes(2, tmp_path, 0.005)
    found = [result.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert making.value == 1
    assert found[0] == found[1]
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path):
    (process,), making, _ = processes(1, tmp_path, 0.02)
    while not making.value:
        time.sleep(0.01)
    time.sleep(0.2)  # a making takes more than a second
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = (tmp_path / "tokens").glob("*.unfinished")
    assert not left.with_suffix("").exists()
    assert not (left / "facts.json").exists()
    made = Corpus("made up", "sixty", read(texts(60)), 0.1, 0)
    vocabulary = Vocabulary(tokenizer_for(SMALL, made.training_texts, made.identity, str(tmp_path)))
    stream = open_tokens(made, vocabulary, str(tmp_path)).streams["train"]
    assert Path(stream.folder) == left.with_suffix("")
    expected = open_tokens(made, vocabulary, str(tmp_path / "other")).streams["train"]
    assert np.array_equal(stream.tokens, expected.tokens)
    assert not left.exists()


def test_a_failed_making_is_made_again(vocabulary, tmp_path):
    def broken(problems):
        yield from (Document([text]) for text in texts(30))
        if "survey" in made.__dict__:
            raise RuntimeError("in the middle")

    made = Corpus("made up", ["broken"], broken, 0.1, 0)
    with pytest.raises(RuntimeError):
        open_tokens(made, vocabulary, str(tmp_path))
    whole = Corpus("made up", ["broken"], read(texts(30)), 0.1, 0)
    assert len(open_tokens(whole, vocabulary, str(tmp_path)).streams["train"].document_ends) == 27


def zeros(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train.tokens", zeros),
        ("train.tokens", half),
        ("train.tokens", Path.unlink),
        ("train.ends.npy", zeros),
        ("val.bytes.npy", half),
        ("facts.json", half),
        ("facts.json", zeros),
        ("facts.json", Path.unlink),
    ],
)
def test_a_damaged_cache_is_made_again(name, damage, vocabulary, tmp_path, caplog):
    stream = open_tokens(corpus(texts()), vocabulary, str(tmp_path)).streams["train"]
    expected = np.array(stream.tokens)
    damage(Path(stream.folder) / name)
    again = open_tokens(corpus(texts()), vocabulary, str(tmp_path)).streams["train"]
    assert np.array_equal(again.tokens, expected)
    assert f"'{stream.folder}' is damaged" in caplog.text
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_long_file_is_looked_at_from_its_beginning_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "BLOCK", 10)
    monkeypatch.setattr(token_cache, "BLOCKS", 4)
    path = tmp_path / "file"
    for size, seen in ((7, range(7)), (40, range(40)), (100, (0, 9, 30, 39, 60, 69, 90, 99))):
        content = bytes(range(1, size + 1))
        path.write_bytes(content)
        whole = token_cache.fingerprint(path)
        for place in seen:
            path.write_bytes(content[:place] + b"\0" + content[place + 1 :])
            assert token_cache.fingerprint(path) != whole


def test_a_damaged_tokenizer_is_trained_again(tmp_path, caplog):
    made = corpus(texts())
    vocabulary = tokenizer_for(SMALL, made.training_texts, made.identity, str(tmp_path)).get_vocab()
    (path,) = (tmp_path / "tokenizers").glob("*.json")
    zeros(path)
    assert tokenizer_for(SMALL, made.training_texts, made.identity, str(tmp_path)).get_vocab() == vocabulary
    assert "is damaged; training it again" in caplog.text


def test_what_is_kept_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    replace, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(os.readlink(f"/proc/self/fd/{number}")), sync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("named"), replace(*names)))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("text")
    cache.keep(tmp_path / "new", tmp_path / "kept")
    assert done == [str(tmp_path / "new" / "file"), str(tmp_path / "new"), "named", str(tmp_path)]
    assert (tmp_path / "kept" / "file").read_text() == "text"


def test_a_disk_without_locks_is_said_in_one_line(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with (
        pytest.raises(BadInput, match=r"cannot be locked \(.*No locks available\).*; datamodule.cache="),
        cache.alone(tmp_path / "x"),
    ):
        raise AssertionError("inside")


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "environment"))
    assert cache.cache_folder(None, "tokens") == tmp_path / "environment" / "tokens"
    assert cache.cache_folder(str(tmp_path / "setting"), "tokens") == tmp_path / "setting" / "tokens"
    monkeypatch.delenv("HEADSTART_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder(None, "tokens") == tmp_path / ".cache" / "headstart" / "tokens"
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cache='.*file' cannot be written"):
        cache.cache_folder(str(tmp_path / "file"), "tokens")


def test_a_full_disk_is_said_in_one_line(vocabulary, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "_make", full)
    with pytest.raises(BadInput, match="cannot be written: No space left on device"):
        open_tokens(corpus(texts()), vocabulary, str(tmp_path))


def test_the_second_process_says_that_it_waits(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "thing"
    code = "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from datamodules.cache import alone\n"
    code += "with alone(Path(sys.argv[2])): print('in', flush=True); time.sleep(1.5)"
    words = [sys.executable, "-c", code, str(Path(__file__).parents[2]), str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with cache.alone(path):
            assert "waiting for it" in caplog.text


def test_facts_can_be_read_by_people(vocabulary, tmp_path):
    made = open_tokens(corpus(texts()), vocabulary, str(tmp_path))
    facts = json.loads((Path(made.streams["train"].folder) / "facts.json").read_text())
    assert facts["streams"]["train"]["num_tokens"] == made.streams["train"].num_tokens
    assert FastTokenizing(vocabulary.tokenizer).words is not None
