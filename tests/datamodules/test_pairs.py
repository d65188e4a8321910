"""Pairs listed in tables, of every kind."""

import csv
import json

import pytest
from made_shards import SMALL, picture

from datamodules.pairs import NOT_THERE, OTHER_LABEL, WITHOUT_CAPTION, WITHOUT_PATH, Pairs
from datamodules.tables import MALFORMED
from errors import BadInput

KINDS = [".csv", ".tsv", ".jsonl", ".parquet"]
ROWS = [  # path, caption, class
    row for i in range(12) for row in ((f"p/{i}.png", f"a {i}, first", "ab"[i % 2]), (f"p/{i}.png", f'"b" {i}', "ab"[i % 2]))
]
Rows = list[tuple[object, object, object]]


def write(path, rows: Rows = ROWS):
    named = [dict(zip(("path", "caption", "kind"), row, strict=True)) for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, named)))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow.parquet")
        pyarrow.write_table(__import__("pyarrow").Table.from_pylist(named), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("path", "caption", "kind"), *rows])
    else:
        path.write_text("\n".join("\t".join(map(str, row)) for row in [("path", "caption", "kind"), *rows]) + "\n")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "p").mkdir()
    for i in range(12):
        (tmp_path / "p" / f"{i}.png").write_bytes(picture(i))
    return tmp_path


def opened(folder, name: str, **changes) -> Pairs:
    settings = {"tokenizer": SMALL, "batch_size": 4, "cache": str(folder / "cache"), "label": "kind"}
    return Pairs(str(folder / name), **(settings | changes))


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_of_table(folder, suffix, monkeypatch):
    write(folder / f"all{suffix}")
    monkeypatch.chdir(folder.parent)  # paths are relative to the table, not to where one is
    data = opened(folder, f"all{suffix}")
    assert data.problems == {}
    assert data.spec.class_names == ("a", "b")
    captions = {texts for split in data.splits for texts in data.captions(split)}
    assert captions == {(f"a {i}, first", f'"b" {i}') for i in range(12)}
    for split in data.splits:
        (batch,) = data.evaluation_loader(split)
        numbers = (batch["views"][:, 0, 0, 0, 0] // 16).tolist()
        assert [texts[0] for texts in data.captions(split)] == [f"a {number}, first" for number in numbers]
        assert batch["label"].tolist() == [number % 2 for number in numbers]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_several_captions_may_be_a_list(folder, suffix):
    write(folder / f"all{suffix}", [(f"p/{i}.png", [f"a {i}", " ", f"b {i}"], None) for i in range(12)])
    data = opened(folder, f"all{suffix}", label=None)
    assert {texts for split in data.splits for texts in data.captions(split)} == {(f"a {i}", f"b {i}") for i in range(12)}
    assert data.task is None


def test_splits_may_have_tables_of_their_own(folder):
    write(folder / "train.csv", ROWS[:16])
    val, test = write(folder / "val.jsonl", ROWS[16:20]), write(folder / "p" / "test.csv", [("11.png", "c", "b")])
    data = opened(folder, "train.csv", val_files=val, test_files=test)
    assert {split: part.num for split, part in data.splits.items()} == {"train": 8, "val": 2, "test": 1}
    assert data.captions("test") == [("c",)]
    assert data.task.splits["test"].labels.tolist() == [1]


def test_a_picture_is_one_however_its_path_is_written(folder):
    forms = "p/{}.png", "./p/{}.png", "p//{}.png", "p/../p/{}.png", f"{folder}/p/{{}}.png"
    write(folder / "all.csv", [(form.format(i), f"{number} {i}", "a") for i in range(12) for number, form in enumerate(forms)])
    data = opened(folder, "all.csv")
    captions = [texts for split in data.splits for texts in data.captions(split)]
    assert sorted(captions) == sorted(tuple(f"{number} {i}" for number in range(len(forms))) for i in range(12))


def test_a_picture_in_two_splits_is_refused(folder):
    write(folder / "train.csv", ROWS[:16])
    elsewhere = write(folder / "p" / "test.csv", [("11.png", "c", "b"), ("./7.png", "c", "b")])
    with pytest.raises(BadInput, match=r"^'.*/p/7\.png' is in two splits: train and test$"):
        opened(folder, "train.csv", test_files=elsewhere)
    with pytest.raises(BadInput, match="is in two splits: train and val"):
        opened(folder, "train.csv", val_files=str(folder / "train.csv"))


def test_rows_that_cannot_be_used_are_counted(folder, caplog):
    more = [("p/gone.png", "x", "a"), ("p/1.png", "", "a"), ("", "x", "a"), ("p/0.png", "third", "b"), ("p/0.png", "4", "")]
    path = folder / "all.csv"
    write(path, [*ROWS, *more])
    path.write_bytes(path.read_bytes() + b"only one\n")
    data = opened(folder, "all.csv")
    expected = {NOT_THERE: 1, WITHOUT_CAPTION: 1, WITHOUT_PATH: 1, OTHER_LABEL: 1, MALFORMED: 1}
    assert data.problems == expected
    assert all(f"'pairs': 1 {problem}" in caplog.text for problem in expected)
    assert ("a 0, first", '"b" 0', "third", "4") in [texts for split in data.splits for texts in data.captions(split)]


def test_bad_tables_are_refused_in_one_line(folder):
    write(folder / "good.csv")
    write(folder / "gone.csv", [("q/1.png", "a", "b")])
    write(folder / "empty.csv", [])
    write(folder / "blank.csv", [("p/1.png", "", "")])
    (folder / "x.parquet").write_bytes(b"PAR1 no parquet")
    for name, changes, message in (
        ("nothing.csv", {}, r"datamodule\.files='.*nothing\.csv' cannot be read: No such file"),
        ("all.xlsx", {}, r"none of the known kinds: \.tsv, \.csv, \.jsonl, \.parquet"),
        (
            "good.csv",
            {"caption": "title"},
            "has no column 'title'; name another by datamodule.caption=<column>; columns: path, caption, kind",
        ),
        ("good.csv", {"val_files": "nowhere.csv"}, r"datamodule\.val_files='nowhere\.csv' cannot be read"),
        ("gone.csv", {}, r"lists no picture that is there: '.*q/1\.png'"),
        ("empty.csv", {}, "has no rows"),
        ("blank.csv", {}, "there is no row with a path and a caption"),
        ("x.parquet", {}, r"x\.parquet' is not a readable parquet file"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            opened(folder, name, **changes)
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match=r"needs datamodule\.files="):
        Pairs("", SMALL)
