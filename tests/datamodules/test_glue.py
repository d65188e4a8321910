"""GLUE from its own files, column by column, and from the hub's (here made up) records."""

import numpy as np
import pytest
from made_text import SMALL

from datamodules import glue
from datamodules.glue import KNOWN, Glue
from errors import BadInput

FILES = {  # task -> (header or None, a row of each class or score; L is the label, A and B the texts)
    "cola": (None, "gj04\tL\t\tA", ["0", "1"]),
    "sst2": ("sentence\tlabel", "A\tL", ["0", "1"]),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "L\t1\t2\tA\tB", ["0", "1"]),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\ty\t1\ts\ts\tA\tB\tL",
        ["0.000", "4.750"],
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tA\tB\tL", ["0", "1"]),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\tp\tq\tg\t( A )\tA\tB\tneutral\tL",
        ["entailment", "neutral", "contradiction"],
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tA\tB\tL", ["entailment", "not_entailment"]),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tA\tB\tL", ["entailment", "not_entailment"]),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tA\tB\tL", ["0", "1"]),
}
SELECTION = {"cola": "matthews", "stsb": "spearman"}


def write(root, task: str, num: int = 12) -> None:
    header, row, labels = FILES[task]
    folder = root / KNOWN[task].folder
    folder.mkdir(parents=True)
    for file, rows in (("train", num), ("dev_matched" if task == "mnli" else "dev", 6)):
        lines = [header] if header else []
        for i in range(rows):
            words = {"A": f'first "{i}', "B": f"second {i}", "L": labels[i % len(labels)]}
            lines.append("\t".join(words.get(field, field) for field in row.split("\t")))
        (folder / f"{file}.tsv").write_text("\n".join(lines) + "\n")


def opened(folder, task: str, **changes) -> Glue:
    settings = {"tokenizer": SMALL, "batch_size": 2, "val_fraction": 0.25, "cache": str(folder / "cache")}
    return Glue(task, **(settings | changes))


@pytest.mark.parametrize("task", sorted(KNOWN))
@pytest.mark.parametrize("own_folder", [False, True])
def test_a_local_copy_is_read(task, own_folder, tmp_path):
    write(tmp_path, task)
    data = opened(tmp_path, task, root=str(tmp_path / KNOWN[task].folder if own_folder else tmp_path))
    assert data.spec.name == task
    assert data.spec.selection == SELECTION.get(task, "accuracy")
    assert len(data.spec.class_names) == {"stsb": 0, "mnli": 3}.get(task, 2)
    pair = task not in ("cola", "sst2")
    assert data.splits["test"].texts == [(f'first "{i}', f"second {i}")[: 1 + pair] for i in range(6)]
    assert data.splits["train"].num + data.splits["val"].num == 12
    labels = FILES[task][2]
    expected = [float(labels[i % 2]) if task == "stsb" else i % len(labels) for i in range(6)]
    assert data.splits["test"].labels.tolist() == expected
    assert data.splits["test"].labels.dtype == (np.float32 if task == "stsb" else np.int64)
    assert ("segment" in next(iter(data.evaluation_loader("test")))) == pair


@pytest.mark.parametrize("task", sorted(KNOWN))
def test_the_hub_says_the_same_in_its_own_columns(task, tmp_path, monkeypatch):
    asked, known = [], KNOWN[task]

    def records(path, subset, split, cache):
        asked.append((path, subset, split))
        label = (lambda i: 0.5 * i) if task == "stsb" else (lambda i: i % len(known.class_names))
        columns = dict(zip(known.hub_columns, ("first", "second"), strict=False))
        return [{column: f"{text} {i}" for column, text in columns.items()} | {"label": label(i)} for i in range(12)]

    monkeypatch.setattr(glue, "open_records", records)
    data = opened(tmp_path, task)
    assert asked == [("nyu-mll/glue", task, "train"), ("nyu-mll/glue", task, known.dev[1])]
    assert data.splits["test"].num == 12
    assert data.splits["test"].labels.tolist()[:3] == ([0, 0.5, 1.0] if task == "stsb" else [0, 1, 2 % len(known.class_names)])


def test_rows_that_do_not_fit_are_counted(tmp_path, caplog):
    write(tmp_path, "qqp")
    with open(tmp_path / "QQP" / "train.tsv", "a") as file:
        file.write("1\t2\t3\tA\n1\t2\t3\tA\tB\t\n")
    data = opened(tmp_path, "qqp", root=str(tmp_path))
    assert sum(data.problems.values()) == 2
    assert "'qqp': 1 malformed lines skipped" in caplog.text


def test_what_cannot_be_used_is_said_in_one_line(tmp_path):
    write(tmp_path, "rte")
    with pytest.raises(BadInput, match=r"task='sst' is not a task of GLUE; did you mean sst2.* choices: cola"):
        opened(tmp_path, "sst", root=str(tmp_path))
    with pytest.raises(BadInput, match=r"has no CoLA/train\.tsv"):
        opened(tmp_path, "cola", root=str(tmp_path))
    path = tmp_path / "RTE" / "train.tsv"
    path.write_text(path.read_text().replace("label", "gold"))
    with pytest.raises(BadInput, match="has no column 'label'; columns: index, sentence1, sentence2, gold"):
        opened(tmp_path, "rte", root=str(tmp_path))
