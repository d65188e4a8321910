"""Tests, models and pre-trainings of one name that are not the same have names of their own, everywhere."""

import os
from dataclasses import replace

import numpy as np
import pytest
from records import record

from reports.apart import told_apart
from reports.head_start import head_starts
from reports.pareto import fronts
from reports.result import Result
from reports.rows import rows_of
from reports.scores import block, entrants, model, protocol, task
from reports.statistics import rank
from reports.table import collect
from reports.verdict import verdicts

KNOWN = {
    "data_settings": {"root": "/a/pictures"},
    "settings": {"k": 20},
    "model_settings": {"depth": 12},
    "pretraining_settings": {},
}


def recorded(result: Result, **more) -> Result:
    return replace(result, transfer=result.transfer | KNOWN | more)


@pytest.mark.parametrize(
    ("kind", "settings", "name", "expected"),
    [
        ("data_settings", ({"root": "/a/red"}, {"root": "/b/blue"}), task, ["emoji root=red", "emoji root=blue"]),
        ("data_settings", ({"root": "/a/red"}, {"root": "/b/red"}), task, ["emoji root=/a/red", "emoji root=/b/red"]),
        ("data_settings", ({"label": "one"}, {"label": "two"}), task, ["emoji label=one", "emoji label=two"]),
        ("data_settings", ({"label": "category", "templates": ["{}"]}, {"label": "category"}), task, ["emoji", "emoji"]),
        ("settings", ({"k": 20, "temperature": 0.07}, {"k": 3, "temperature": 0.07}), protocol, ["knn k=20", "knn k=3"]),
        ("settings", ({"k": 20}, {}), protocol, ["knn", "knn"]),
        ("model_settings", ({"depth": 12}, {"depth": 1}), model, ["vit_t depth=12", "vit_t depth=1"]),
    ],
)  # fmt: skip
def test_the_settings_that_differ_are_in_the_name(kind, settings, name, expected):
    results = told_apart([recorded(record("mae", 0, 0.5), **{kind: own}) for own in settings])
    assert [name(result) for result in results] == expected
    assert len(rows_of(results)) == len(set(expected))


def test_what_older_records_do_not_say_changes_no_name():
    results = [record("mae", 0, 0.5), recorded(record("simclr", 0, 0.6)), recorded(record("random", 0, 0.2))]
    assert told_apart(results) == results
    assert len({block(result) for result in results}) == 1


def written(folder, results):
    for number, result in enumerate(results):
        (folder / f"made{number}").mkdir(parents=True)
        os.utime(result.write(folder / f"made{number}"), (number, number))
    return folder


@pytest.mark.parametrize(
    "other", [{"data_settings": {"root": "/b"}}, {"settings": {"k": 3}}, {"model_settings": {"depth": 1}}]
)  # fmt: skip
def test_a_test_done_again_takes_the_place_of_the_older_one_and_of_no_other(tmp_path, other):
    first, again = record("random", 0, 0.1), record("random", 0, 0.3)
    results, _ = collect(written(tmp_path / "same", [recorded(first), recorded(again)]))
    assert [result.metrics["accuracy"] for result in results] == [0.3]
    results, _ = collect(written(tmp_path / "older", [first, recorded(again)]))
    assert [result.metrics["accuracy"] for result in results] == [0.3]
    results, _ = collect(written(tmp_path / "other", [recorded(first), recorded(again, **other)]))
    assert sorted(row.score.mean for row in rows_of(results)) == [0.1, 0.3]


def test_a_run_is_one_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = [recorded(record("mae", 0, accuracy), checkpoint=path) for accuracy, path in
               ((0.2, "run"), (0.3, f"{tmp_path}/run"), (0.8, "./other/../run"))]  # fmt: skip
    (result,), _ = collect(written(tmp_path, results))
    assert result.metrics["accuracy"] == 0.8


def pretrained_on(data: str, means: dict[str, float]):
    spent, rng = {"flops": 1e12}, np.random.default_rng(len(data))
    return [
        replace(record(name, seed, mean + noise[seed], task="cifar10", spent=spent, protocol=how), data=data)
        for name, mean in means.items() for noise in [rng.normal(0, 0.01, 3)] for seed in range(3) for how in ("knn", "linear")
    ]  # fmt: skip


def test_pre_training_on_several_data_sets_makes_several_entrants():
    """Two data sets of 0.3 and 0.8 are no entrant of 0.55."""
    results = pretrained_on("emoji", {"mae": 0.3, "simclr": 0.6}) + pretrained_on("cifar100", {"mae": 0.8})
    results = told_apart([*results, *pretrained_on("cifar10", {"random": 0.1})])
    names = {"mae on emoji", "mae on cifar100", "simclr", "random"}
    assert set(entrants(results)) == names
    assert {row.objective for row in rows_of(results)} == names
    assert rank(results)[0].entrant == "mae on cifar100"
    assert "mae on cifar100" in verdicts(results)[0]
    assert {point.objective for front in fronts(results).values() for point in front} == {"random", "mae on cifar100"}


def test_folders_that_runs_were_pre_trained_on_are_told_apart_where_the_test_is_the_same():
    def judged(root: str, task: str) -> Result:
        made = replace(record("mae", 0, 0.5, task=task), data="image_folder")
        return recorded(made, pretraining_settings={"root": root})

    assert entrants(told_apart([judged("/a/cats", "cifar10"), judged("/a/dogs", "cifar10")])) == [
        "mae on image_folder root=cats", "mae on image_folder root=dogs",
    ]  # fmt: skip
    assert entrants(told_apart([judged("/a/cats", "cifar10"), judged("/a/dogs", "emoji")])) == ["mae", "mae"]


def test_each_data_set_judged_on_itself_needs_no_longer_name():
    results = [replace(record("mae", 0, 0.5, task=data), data=data) for data in ("emoji", "cifar10")]
    assert told_apart(results) == results


def test_a_head_start_is_against_scratch_fine_tuned_in_the_same_way():
    def tests(objective: str, epochs: int, scores: dict[int, float], how: str = "finetune"):
        return [
            recorded(record(objective, 0, score, protocol=how, fraction=n / 1000, labels=n), settings={"epochs": epochs})
            for n, score in scores.items()
        ]

    curve = {10: 0.2, 100: 0.5, 1000: 0.8}
    results = [*tests("random", 3, {1000: 0.5}), *tests("mae", 3, curve), *tests("mae", 0, curve, "linear")]
    assert sorted((found.protocol, found.factor) for found in head_starts(told_apart(results))) == [
        ("finetune", pytest.approx(10)), ("linear", pytest.approx(10)),
    ]  # fmt: skip
    both = told_apart([*results, *tests("random", 30, {1000: 0.8}), *tests("mae", 30, curve)])
    assert sorted((found.protocol, found.factor) for found in head_starts(both)) == [
        ("finetune epochs=3", pytest.approx(10)), ("finetune epochs=30", pytest.approx(1)),
    ]  # fmt: skip
