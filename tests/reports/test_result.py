"""The result record: written whole, read back, refused when it is not one; and the table over many."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rich.console import Console

from errors import BadInput
from reports.result import SCHEMA, Result, read_result
from reports.table import accuracy_table, collect

ROOT = Path(__file__).parents[2]


def transfer_result(objective: str, seed: int, accuracy: float, protocol: str = "knn") -> Result:
    return Result(
        "transfer",
        objective,
        "vit_t",
        "emoji",
        seed,
        metrics={"accuracy": accuracy},
        transfer={
            "protocol": protocol,
            "data": "emoji",
            "label_fraction": 1.0,
            "checkpoint": f"run{objective}{seed}",
            "seed": 0,
        },
    )


def test_round_trip(tmp_path):
    result = Result("pretrain", "mae", "vit_t", "emoji", 3, metrics={"last_loss": 0.5})
    assert read_result(result.write(tmp_path)) == result
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"]


def test_every_field_is_documented():
    text = (ROOT / "docs" / "result.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(Result) if f"`{field.name}`" not in text] == []


def test_cut_foreign_and_newer_records_are_refused(tmp_path):
    file = tmp_path / "result.json"
    whole = json.dumps({"schema": SCHEMA + 1})
    for text, reason in (
        (whole[:5], "cannot be read"),
        ("[1]", "not a result"),
        ("{}", "not a result"),
        (whole, "newer|schema"),
    ):
        file.write_text(text)
        with pytest.raises(BadInput, match=reason):
            read_result(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", 5), ("model", 5), ("seed", None), ("seed", True), ("budget_spent", None), ("budget_spent", {"flops": "x"}),
        ("budget_asked", [1]), ("metrics", None), ("metrics", {"accuracy": [1]}), ("transfer", [1]), ("versions", None),
        ("versions", {"torch": 2}), ("parameters", {"encoder": "x"}), ("seconds", "long"), ("settings", 1),
    ],
)  # fmt: skip
def test_a_record_with_something_of_another_kind_is_refused_by_name(tmp_path, name, value):
    path = replace(transfer_result("mae", 0, 0.5), **{name: value}).write(tmp_path)
    with pytest.raises(BadInput, match=f"is not a result record: its {name} "):
        read_result(path)


def test_the_table_has_means_spreads_and_baselines_first_and_lists_broken_files(tmp_path):
    number = 0
    for objective, accuracies in (("mae", (0.5, 0.6)), ("random", (0.3,)), ("supervised", (0.7, 0.7))):
        for seed, accuracy in enumerate(accuracies):
            for protocol in ("knn", "linear"):
                folder = tmp_path / str(number)
                folder.mkdir()
                transfer_result(objective, seed, accuracy, protocol).write(folder)
                number += 1
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    results, broken = collect(tmp_path)
    assert len(results) == 10
    assert len(broken) == 1
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(accuracy_table(results))
    lines = [line for line in console.export_text().splitlines() if "emoji" in line]
    assert [line.split("│")[1].strip() for line in lines] == ["random", "supervised", "mae"]
    assert "55.0 ± 7.1 (2)" in lines[2]


def test_records_that_cannot_be_compared_are_listed(tmp_path):
    broken = {
        "nan": {"metrics": {"accuracy": float("nan")}},
        "metric": {"metrics": {"f1": 0.5}},
        "protocol": {"transfer": {"data": "emoji"}},
        "other kind": {"transfer": transfer_result("mae", 0, 0.5).transfer | {"num_test": "many", "settings": [1]}},
        "fine": {},
    }
    for name, changes in broken.items():
        (tmp_path / name).mkdir()
        replace(transfer_result("mae", 0, 0.5), **changes).write(tmp_path / name)
    results, lines = collect(tmp_path)
    assert len(results) == 1
    assert len(lines) == 4
    listed = " ".join(lines)
    assert (
        f"'{tmp_path}/other kind/result.json' cannot be compared: it has no transfer.num_test and no transfer.settings"
        in listed
    )
    assert f"'{tmp_path}/nan/result.json' cannot be compared: it has no finite metrics.accuracy" in listed
    assert f"'{tmp_path}/metric/result.json' cannot be compared: it has no finite metrics.accuracy" in listed
    assert (
        f"'{tmp_path}/protocol/result.json' cannot be compared: it has no transfer.protocol and no transfer.checkpoint and no"
        in listed
    )


def test_a_folder_without_results(tmp_path):
    with pytest.raises(BadInput, match="no transfer results"):
        collect(tmp_path)
    with pytest.raises(BadInput, match="not a folder"):
        collect(tmp_path / "nothing")
