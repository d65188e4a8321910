"""What a run was built on, and what that cost, against sums by hand."""

from pathlib import Path

import pytest
import yaml

from models.export import save_encoder
from reports.result import Result
from training.origins import built_on, origins
from transfer.knn import KNN
from transfer.source import Source

CONFIG = {
    "names": {"objective": "mae", "model": "vit_t", "datamodule": "emoji"},
    "seed": 3,
    "continued": {"objective": "mae", "datamodule": "emoji"},
    **{node: {} for node in ("datamodule", "optimizer", "budget", "trainer", "monitor")},
    "trial_flops": 1e9,
}


def make_run(folder: Path, flops: float, minutes: float, model: dict | None = None, objective: dict | None = None) -> str:
    folder.mkdir()
    config = CONFIG | {"model": model or {}, "objective": objective or {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    spent = {"flops": flops, "minutes": minutes}
    Result("pretrain", "mae", "vit_t", "emoji", 3, budget_spent=spent, seconds=1e6).write(folder)
    return str(folder)


def test_a_chain_of_runs_counts_each_of_them_once(tmp_path):
    first = make_run(tmp_path / "first", 1.0, 10.0)
    second = make_run(tmp_path / "second", 2.0, 20.0, model={"pretrained": f"{first}/encoder.safetensors"})
    teacher = make_run(tmp_path / "teacher", 4.0, 40.0, model={"init": first, "pretrained": False})
    config = {"model": {"init": second}, "objective": {"teacher": teacher, "teacher_momentum": 0.9}}
    assert built_on(config) == {"from": [second, teacher], "flops": 7.0, "minutes": 70.0}
    assert built_on({"model": {"depth": 3, "pretrained": False}, "objective": {"text_model": "bert_mini"}}) == {}
    assert origins({"model": {}, "objective": {"tokenizer": first, "text": second}}) == [first, second]


@pytest.mark.parametrize("lost", ["library", "file", "record", "cost"])
def test_what_is_not_known_is_not_taken_for_nothing(tmp_path, lost):
    first = make_run(tmp_path / "first", 1.0, 10.0, model={"pretrained": lost == "library"})
    begun = f"{tmp_path}/weights.safetensors" if lost == "file" else first
    if lost == "record":
        (tmp_path / "first" / "result.json").unlink()
    if lost == "cost":
        Result("pretrain", "mae", "vit_t", "emoji", 3, budget_spent={"minutes": 10.0}).write(tmp_path / "first")
    found = built_on({"model": {"init": begun}})
    assert found == {"from": [begun], "flops": None, "minutes": 10.0 if lost == "cost" else None}


def test_weights_of_a_library_are_no_fresh_ones():
    settings = {"text_settings": {"pretrained": True}}
    assert origins({"model": {"pretrained": True}, "objective": settings}) == [
        "model.pretrained",
        "objective.text_settings.pretrained",
    ]


def test_what_is_judged_says_what_it_was_built_on(tmp_path, vit):
    teacher = make_run(tmp_path / "teacher", 4.0, 40.0)
    student = make_run(tmp_path / "student", 1.0, 10.0, objective={"teacher": teacher})
    save_encoder(vit, Path(student))
    settings = {"checkpoint": student, "outputs": str(tmp_path), "text_model": "bert_mini"}
    choices = {"transfer": "knn", "datamodule": None, "model": None}
    assert Source.find(settings, choices, KNN()).built_on == {"from": [teacher], "flops": 4.0, "minutes": 40.0}
    fresh = settings | {"checkpoint": "none", "model": {"pretrained": True, "_target_": "models.timm_encoder.TimmEncoder"}}
    found = Source.find(fresh, choices | {"model": "timm"}, KNN()).built_on
    assert found == {"from": ["model.pretrained"], "flops": None, "minutes": None}
