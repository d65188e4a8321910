"""Sentences and pairs as rows: as Hugging Face's own tokenizers make them, padded, cut, split and labelled."""

import csv
import io
import json
import random
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from made_text import SMALL, sentence, texts

from datamodules.rows import truncated
from datamodules.tables import MALFORMED, read_table
from datamodules.text_classification import INCOMPLETE, TextClassification
from datamodules.text_task import Texts, TextTask
from datamodules.tokenizer import tokenizer_for, wrapped
from datamodules.tokenizer_training import train_tokenizer
from datamodules.vocabulary import Vocabulary
from errors import BadInput


def made(num: int = 60, pairs: bool = False, seed: int = 0, regression: bool = False) -> Texts:
    generator = random.Random(seed)
    strings = [tuple(sentence(generator, generator.randint(1, 30)) for _ in range(1 + pairs)) for _ in range(num)]
    labels = np.array([generator.random() * 5 for _ in strings], np.float32) if regression else np.arange(num) % 3
    return Texts(strings, labels)


def task(folder, pairs: bool = False, max_length: int = 40, **changes) -> TextTask:
    settings = {"tokenizer": SMALL, "batch_size": 8, "max_length": max_length, "cache": str(folder)}
    return TextTask("made up", {"train": made(pairs=pairs)}, ["a", "b", "c"], **(settings | changes))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("max_length", [16, 23, 64])
def test_rows_are_those_of_hugging_face(pairs, max_length, tmp_path):
    opened = task(tmp_path, pairs, max_length)
    tokenizer = opened.spec.vocabulary.tokenizer
    for batch in opened.evaluation_loader("train"):
        length = batch["ids"].shape[1]
        assert length == max_length or length % 8 == 0
        for row, index in enumerate(batch["index"].tolist()):
            expected = tokenizer(
                *opened.splits["train"].texts[index],
                truncation="longest_first",
                max_length=max_length,
                padding="max_length",
                return_token_type_ids=True,
            )
            assert batch["ids"][row].tolist() == expected["input_ids"][:length]
            assert batch["present"][row].tolist() == [bool(one) for one in expected["attention_mask"][:length]]
            assert not any(expected["attention_mask"][length:])
            if pairs:
                assert batch["segment"][row].tolist() == expected["token_type_ids"][:length]
    assert ("segment" in batch) == pairs
    assert batch["present"].dtype == torch.bool


@pytest.mark.parametrize("pairs", [False, True])
def test_bytes_are_shared_out_among_the_tokens_to_predict(pairs, tmp_path):
    opened = task(tmp_path, pairs, max_length=128)  # nothing is cut
    size = sum(len(string.encode()) for strings in opened.splits["val"].texts for string in strings)
    num_targets = sum(int(batch["present"][:, 1:].sum()) for batch in opened.evaluation_loader("val"))
    assert opened.spec.bytes_per_token == pytest.approx(size / num_targets)


def test_what_is_cut_off_has_no_bytes(tmp_path):
    splits = {split: Texts([("whale " * 20,)] * 5, np.arange(5) % 2) for split in ("train", "val")}
    opened = TextTask("whales", splits, ["a", "b"], SMALL, max_length=8, batch_size=1, cache=str(tmp_path))
    num_tokens = len(opened.spec.vocabulary.tokenizer("whale", add_special_tokens=False)["input_ids"])
    assert opened.spec.bytes_per_token == pytest.approx(6 / num_tokens * 6 / 7)  # the seventh that is predicted is the end


def test_truncation_takes_from_the_longer():
    for first in range(12):
        for second in range(12):
            for room in range(1, 24):
                a, b = truncated([first, second], room)
                assert a + b == min(room, first + second)
                assert a <= first
                assert b <= second
                if a < first:
                    assert a >= b - 1  # what was cut is not shorter than the other, but for what is odd
                if b < second:
                    assert b >= a - 1
    assert truncated([5], 3) == [3]
    assert truncated([5], 8) == [5]


def test_rows_have_what_the_tokenizer_has(tmp_path):
    tokenizer = train_tokenizer("bpe", 300, True, lambda limit: iter(texts()))
    for special, begins, ends in (
        ({"eos_token": "[SEP]"}, False, True),
        ({"bos_token": "[CLS]", "pad_token": "[PAD]"}, True, False),
    ):
        vocabulary = Vocabulary(wrapped(tokenizer, **special))
        opened = task(tmp_path, True, 64, tokenizer=vocabulary)
        batch = next(iter(opened.evaluation_loader("train")))
        for row, present in zip(batch["ids"], batch["present"], strict=True):
            ids = row[present].tolist()
            assert (ids[0] == 2) == begins
            assert ids.count(3) == 2 * ends
        assert (batch["ids"][~batch["present"]] == vocabulary.pad).all()


def test_batches_carry_labels_and_do_not_depend_on_workers(tmp_path):
    opened = task(tmp_path)
    expected = list(opened.train_loader(None, 1, num_batches=10))
    for batch, other in zip(opened.train_loader(None, 1, num_batches=10, workers=2), expected, strict=True):
        assert all(torch.equal(batch[key], other[key]) for key in other)
    for batch in expected:
        assert set(batch) == {"ids", "present", "label", "epoch", "index", "corrupt"}
        assert batch["label"].dtype == torch.int64
        assert batch["label"].tolist() == opened.splits["train"].labels[batch["index"]].tolist()
    evaluated = list(opened.evaluation_loader("test"))
    index = torch.cat([batch["index"] for batch in evaluated])
    assert sorted(index.tolist()) == list(range(opened.splits["test"].num))
    lengths = torch.cat([batch["present"].sum(1) for batch in evaluated])
    assert (lengths.diff() >= 0).all()  # so that rows are filled up little
    assert sum(len(batch["index"]) for batch in opened.evaluation_loader("train", limit=7)) == 7


def test_missing_splits_are_carved_and_labels_can_be_fewer(tmp_path):
    opened = task(tmp_path, val_fraction=0.2)
    assert {split: part.num for split, part in opened.splits.items()} == {"train": 39, "val": 9, "test": 12}
    together = sorted(one for part in opened.splits.values() for one in part.texts)
    assert together == sorted(made().texts)
    assert np.bincount(opened.splits["val"].labels).tolist() == [3, 3, 3]
    few = opened.with_label_fraction(0.3, seed=0)
    assert [few.splits[name].num for name in ("train", "val")] == [12, 3]
    assert few.splits["test"] is opened.splits["test"]
    assert sum(len(batch["index"]) for batch in few.evaluation_loader("train")) == few.splits["train"].num
    assert few.spec.num_train == few.splits["train"].num
    assert opened.task is opened


def test_a_regression_has_targets_and_no_classes(tmp_path):
    splits = {"train": made(100, pairs=True, regression=True)}
    opened = TextTask("scores", splits, [], SMALL, batch_size=8, val_fraction=0.1, selection="spearman", cache=str(tmp_path))
    assert {split: part.num for split, part in opened.splits.items()} == {"train": 81, "val": 9, "test": 10}
    assert (opened.spec.num_classes, opened.spec.selection) == (0, "spearman")
    batch = next(iter(opened.evaluation_loader("test")))
    assert batch["label"].dtype == torch.float32
    assert opened.with_label_fraction(0.5, 0).splits["train"].num == 40


def test_a_task_can_take_the_tokenizer_of_a_run(tmp_path):
    tokenizer = tokenizer_for(SMALL, lambda limit: iter(texts()), "corpus", str(tmp_path))
    tokenizer.save_pretrained(tmp_path / "run" / "encoder")
    opened = task(tmp_path, tokenizer={"path": str(tmp_path / "run")})
    assert opened.spec.vocabulary.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_what_does_not_fit_a_task_is_refused(tmp_path):
    for changes, message in (
        ({"batch_size": 1000}, "batch_size=1000 does not fit: 'made up' has \\d+ training texts"),
        ({"max_length": 4}, "max_length=4 is too short"),
        ({"selection": "f1"}, "selection='f1' is not a metric; choices: accuracy, matthews, spearman"),
        ({"val_fraction": 1.0}, "val_fraction"),
    ):
        with pytest.raises(BadInput, match=message):
            task(tmp_path, **changes)


ROWS = [("a good film", "it was", "1"), ('"quoted", and long', "so", "0"), ("bad", "no", "0"), ("fine\there", "x", "1")] * 5


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        lines = (json.dumps({"text": text, "second": second, "label": int(label)}) for text, second, label in rows)
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("text", "second", "label"), *rows])
    else:
        lines = ("\t".join((text.replace("\t", " "), second, label)) for text, second, label in rows)
        path.write_text("text\tsecond\tlabel\n" + "\n".join(lines) + "\n")


def classification(folder, root, **changes) -> TextClassification:
    settings = {"tokenizer": SMALL, "batch_size": 2, "cache": str(folder / "cache"), "val_fraction": 0.25}
    return TextClassification(str(root), **(settings | changes))


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
@pytest.mark.parametrize("form", ["file", "folder", "zip", "task"])
def test_labelled_files_in_every_form(suffix, form, tmp_path):
    root = tmp_path / "reviews"
    if form == "file":
        root = tmp_path / f"reviews{suffix}"
        write(root)
    else:
        for name in ("train", "dev", "test") if form != "task" else ("mr/train", "mr/test", "subj/train"):
            write(root / f"{name}{suffix}")
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "reviews.zip", "w") as archive:
            for path in root.iterdir():
                archive.write(path, path.name)
        root = tmp_path / "reviews.zip"
    opened = classification(tmp_path, root, task="mr" if form == "task" else None, text_pair="second")
    assert opened.spec.name == ("mr" if form == "task" else "reviews")
    assert opened.spec.class_names == ("0", "1")
    assert opened.problems == {}
    split = opened.splits["train" if form == "file" else "test"]
    texts_, seconds, labels = zip(*(row for row in ROWS), strict=True)
    expected = {
        (text.replace("\t", " ") if suffix == ".tsv" else text, second) for text, second in zip(texts_, seconds, strict=True)
    }
    assert set(split.texts) == expected
    if form != "file":
        assert split.labels.tolist() == [int(label) for label in labels]


def test_labels_are_sorted_as_numbers_or_names(tmp_path):
    write(tmp_path / "n.csv", [(f"text {i}", "x", str(i % 12)) for i in range(48)])
    assert classification(tmp_path, tmp_path / "n.csv").spec.class_names == tuple(map(str, range(12)))
    write(tmp_path / "s.csv", [(f"text {i}", "x", ["pos", "neg"][i % 2]) for i in range(12)])
    assert classification(tmp_path, tmp_path / "s.csv").spec.class_names == ("neg", "pos")
    write(tmp_path / "f.csv", [(f"text {i}", "x", str(i / 2)) for i in range(12)])
    scores = classification(tmp_path, tmp_path / "f.csv", selection="spearman")
    assert scores.spec.class_names == ()
    assert scores.splits["train"].labels.dtype == np.float32


def test_incomplete_rows_are_counted_and_left_out(tmp_path, caplog):
    path = tmp_path / "reviews.tsv"
    write(path)
    path.write_bytes(path.read_bytes() + b"no label\tx\t\nshort\nlong\ta\tb\tc\n\nbad \xff\tx\t1\n")
    opened = classification(tmp_path, path)
    assert opened.problems == {INCOMPLETE: 1, MALFORMED: 2, "invalid UTF-8 sequences replaced": 1}
    assert sum(part.num for part in opened.splits.values()) == len(ROWS) + 1
    assert INCOMPLETE in caplog.text


def test_rows_without_a_text_are_counted_and_left_out(tmp_path):
    write(tmp_path / "reviews.csv", [*ROWS, ("", "x", "1"), (" ", "", "0")])
    single = classification(tmp_path, tmp_path / "reviews.csv")
    assert single.problems == {INCOMPLETE: 2}
    assert all(strings[0].strip() for part in single.splits.values() for strings in part.texts)
    assert classification(tmp_path, tmp_path / "reviews.csv", text_pair="second").problems == {INCOMPLETE: 1}


def test_each_split_may_have_a_folder_of_its_own(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / "task" / split / f"{split}.csv", ROWS if split == "train" else ROWS[:4])
    opened = classification(tmp_path, tmp_path / "task")
    assert {split: part.num for split, part in opened.splits.items()} == {"train": len(ROWS), "val": 4, "test": 4}


@pytest.mark.parametrize("stray", ['"never closed,0', 'never closed,"0', '"closed by,the next quote,1', '"a ""b"" c,1'])
@pytest.mark.parametrize("after", [[], ['"quoted, and long",1', "after,0"]])
def test_a_stray_quote_costs_its_own_line_only(stray, after):
    rows = ["text,label", '"two\nlines",1', "before,0", stray, "good,1", "bad,0", "fine,1", *after]
    problems = Counter()
    found = read_table("\n".join(rows).encode(), ".csv", problems)
    whole = list(csv.reader(io.StringIO("\n".join(row for row in rows[1:] if row != stray), newline="")))
    assert [[row["text"], row["label"]] for row in found] == whole
    assert problems == {MALFORMED: 1}


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    write(tmp_path / "reviews.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert classification(tmp_path, "~/reviews.csv").spec.name == "reviews"


def test_bad_labelled_files_are_refused_in_one_line(tmp_path):
    write(tmp_path / "good.tsv")
    write(tmp_path / "two" / "mr" / "train.tsv")
    write(tmp_path / "two" / "subj" / "train.tsv")
    write(tmp_path / "new" / "train.tsv")
    write(tmp_path / "new" / "test.tsv", [("x", "y", "2")])
    write(tmp_path / "no_train" / "test.tsv")
    write(tmp_path / "twice" / "train.tsv")
    write(tmp_path / "twice" / "train.csv")
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "header.tsv").write_text("text\tlabel\n")
    (tmp_path / "blank.tsv").write_text("text\tlabel\nthe whale\t\n")
    (tmp_path / "thing.bin").write_bytes(b"x")
    for root, changes, message in (
        ("nothing", {}, "does not exist"),
        (
            "good.tsv",
            {"label": "stars"},
            "has no column 'stars'; name another by datamodule.label=<column>; columns: text, second, label",
        ),
        ("good.tsv", {"text": "sentence"}, "has no column 'sentence'; name another by datamodule.text=<column>; columns: text"),
        ("good.tsv", {"selection": "spearman", "label": "second"}, "label that is no number"),
        ("two", {}, "holds several tasks: set datamodule.task; choices: mr, subj"),
        ("two", {"task": "subject"}, r"task='subject' is not in .*; did you mean subj\? choices: mr, subj"),
        ("new", {}, "label '2' in the split 'test' of 'new' has no training texts"),
        ("twice", {}, "holds its split 'train' more than once: train.csv, train.tsv; leave one there"),
        ("no_train", {}, "holds no train.tsv, train.csv, train.jsonl or train.parquet"),
        ("empty.tsv", {}, "has no rows"),
        ("header.tsv", {}, "has no rows"),
        ("blank.tsv", {}, "has no complete rows in its split 'train'"),
        ("thing.bin", {}, r"neither a folder, a \.zip nor one of"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            classification(tmp_path, tmp_path / root, **changes)
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="needs datamodule.root"):
        classification(tmp_path, "")
