"""The commands, really run: every choice in conf/ for two steps, transfer after it, and the table at the end."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, command, error_line, inside

from conf import CONF, choices_of, modality, read_choice
from datamodules import torchvision_sets
from reports.result import read_result

REPEATED = ("mae", "simclr", "supervised")  # with two seeds
OBJECTIVES = [name for name in choices_of("objective") if modality("objective", name) == "image"]
DISTILLED = [name for name in OBJECTIVES if "teacher" in read_choice("objective", name)]  # from one of the runs before
SMALL = ["budget.steps=2", "monitor.times=1", "datamodule.batch_size=8", "trainer.accelerator=cpu"]


def folder_of(pictures: Path) -> list[str]:
    return ["datamodule=image_folder", f"datamodule.root={pictures}"]


def choices(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, pictures) -> Path:
    """Every objective, some with two seeds."""
    cwd = tmp_path_factory.mktemp("sweep")
    words = ["model.depth=1", *folder_of(pictures), *SMALL]
    done = command("train.py", "-m", f"objective={','.join(REPEATED)}", "seed=0,1", *words, cwd=cwd)
    assert done.returncode == 0, done.stdout
    others = [name for name in OBJECTIVES if name not in (*REPEATED, *DISTILLED)]
    done = inside("train.py", "-m", f"objective={','.join(others)}", *words, "hydra.sweep.dir=others", cwd=cwd)
    assert done.returncode == 0, done.stdout
    teacher = next(folder for folder in runs(cwd) if "supervised" in folder.name)
    students = ["hydra.sweep.dir=students", f"objective.teacher={teacher}"]
    done = inside("train.py", "-m", f"objective={','.join(DISTILLED)}", *words, *students, cwd=cwd)
    assert done.returncode == 0, done.stdout
    return cwd


def runs(cwd: Path) -> list[Path]:
    return sorted(path.parent for path in cwd.rglob("encoder.safetensors"))


def test_every_objective_runs_and_leaves_what_is_promised(sweep):
    folders = runs(sweep)
    assert len(folders) == len(OBJECTIVES) + len(REPEATED)
    for folder in folders:
        assert {path.name for path in folder.iterdir()} >= {
            "config.yaml", "result.json", "encoder.safetensors", "encoder.json", "checkpoints", "tensorboard",
        }  # fmt: skip
        assert list((folder / "tensorboard").glob("events*"))
        result = read_result(folder / "result.json")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (result.kind, result.status, result.seed) == ("pretrain", "finished", config["seed"])
        assert result.budget_spent["steps"] == 2
        assert result.budget_spent["samples"] == 16
        assert result.samples_per_second > 0
        assert result.peak_memory_bytes > 1e8
        assert result.parameters["total"] >= result.parameters["encoder"]
        assert {"first_loss", "last_loss", "feature_std", "rankme", "val_knn_accuracy"} <= set(result.metrics)
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)  # plain containers only
    seeds = {(r.objective, r.seed) for r in (read_result(folder / "result.json") for folder in folders)}
    assert len(seeds) == len(folders)


def test_tensorboard_holds_scalars_and_pictures(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder in runs(sweep):
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        tags = events.Tags()
        assert {"loss", "lr", "monitor/feature_std", "monitor/rankme", "monitor/val_knn_accuracy"} <= set(tags["scalars"])
        result = read_result(folder / "result.json")
        flops = events.Scalars("flops")[-1]
        assert (flops.step, flops.value) == (2, pytest.approx(result.budget_spent["flops"]))
        hyperparameters = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        assert b"objective/_target_" in hyperparameters
        assert b"names/model" in hyperparameters
        assert events.Scalars("result/val_knn_accuracy")[0].value == pytest.approx(result.metrics["val_knn_accuracy"])
        assert tags["images"], result.objective  # each shows something
        assert all(events.Images(picture)[0].step == 0 for picture in tags["images"])


def test_transfer_of_a_run_of_a_checkpoint_file_and_of_nothing_then_the_table(sweep, pictures):
    folder = runs(sweep)[0]
    checkpoints = f"{folder},{folder}/checkpoints/last.ckpt,latest"
    done = inside("finetune.py", "-m", f"checkpoint={checkpoints}", "transfer=knn,linear", cwd=sweep)
    assert done.returncode == 0, done.stdout
    done = inside(
        "finetune.py", "-m", "checkpoint=none", "transfer=knn,linear", "seed=0,1", "model=vit_t", "model.depth=1",
        *folder_of(pictures), "datamodule.batch_size=8", cwd=sweep,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    done = inside(
        "finetune.py", f"checkpoint={folder}", "transfer=finetune", "transfer.epochs=1", "transfer.min_steps=2",
        "label_fraction=0.5", cwd=sweep,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    records = [json.loads(path.read_text()) for path in (sweep / "outputs" / "transfer").rglob("result.json")]
    assert len(records) == 6 + 4 + 1
    shared = [record["transfer"]["protocol"] for record in records if "shared_seconds" in record["settings"]]
    assert shared == 3 * ["linear"]  # of each checkpoint; with the seeds after the protocols two encoders take turns
    for record in records:
        assert {"accuracy", "macro_f1"} <= set(record["metrics"])
        assert record["transfer"]["num_labels"] > 0
        assert record["transfer"]["data_settings"]["root"] == str(pictures.resolve())
        assert record["transfer"]["model_settings"]["depth"] == 1
        assert record["seconds"] > 0
    same = {
        (record["transfer"]["protocol"], record["metrics"]["accuracy"])
        for record in records
        if record["transfer"]["checkpoint"].startswith(str(folder)) and record["transfer"]["label_fraction"] == 1
    }
    assert len(same) == 2  # the run and its last checkpoint are the same encoder
    done = inside("compare.py", "report=outputs", cwd=sweep)
    assert done.returncode == 0, done.stdout
    assert "random" in done.stdout
    assert "finetune @ 0.5" in done.stdout


@pytest.mark.parametrize(
    ("objective", "models", "more"),
    [
        ("mae", "vit_t", ["model.depth=1"]),
        pytest.param("mae", "vit_s,vit_b,vit_l", ["model.depth=1"], marks=pytest.mark.long),
        pytest.param("simclr", "resnet18,resnet50", [], marks=pytest.mark.long),
        ("supervised", "timm", ["model.name=convnext_atto"]),
    ],
)
def test_every_model_runs(tmp_path, pictures, objective, models, more):
    done = inside(
        "train.py", "-m", f"objective={objective}", f"model={models}", *more, *folder_of(pictures), *SMALL, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert len(runs(tmp_path)) == len(models.split(","))


def test_pixels_are_a_baseline_for_transfer_only(here, pictures):
    done = here(
        "finetune.py", "checkpoint=none", "model=pixels", "transfer=linear", *folder_of(pictures), "datamodule.batch_size=8"
    )
    assert done.returncode == 0, done.stdout
    assert "linear of random" in done.stdout
    assert "nothing to pre-train" in error_line(
        here("train.py", "objective=simclr", "model=pixels", *folder_of(pictures), *SMALL)
    )


def test_every_optimizer_and_the_embedded_data_run(tmp_path):
    done = inside(
        "train.py", "-m", "objective=simclr", f"optimizer={','.join(sorted(choices('optimizer')))}", "model.depth=1",
        "trainer=cpu,auto", "budget.steps=2", "datamodule.batch_size=8", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(runs(tmp_path)) == 2 * len(choices("optimizer"))


@pytest.mark.parametrize("name", sorted(torchvision_sets.KNOWN))
def test_torchvision_sets_open_as_their_configuration_says(name, monkeypatch, tmp_path):
    """The real files are large downloads: a stand-in with the collection's own interface takes their place."""
    import numpy as np
    import PIL.Image

    from conf import build, read_choice

    known = torchvision_sets.KNOWN[name]
    mode = "L" if known.channels == 1 else "RGB"

    class StandIn:
        classes = [str(i) for i in range(10)]  # noqa: RUF012
        targets = torch.arange(200) % 10 if name == "fashion_mnist" else [i % 10 for i in range(200)]
        labels, _labels = np.arange(200) % 10, [i % 10 for i in range(200)]

        def __getitem__(self, index):
            return PIL.Image.new(mode, (known.image_size, known.image_size), index), index % 10

    monkeypatch.setattr(torchvision_sets, "_open", lambda *_: StandIn())
    data = build(read_choice("datamodule", name))
    assert data.spec.image_size == known.image_size
    assert data.spec.channels == known.channels
    assert set(data.splits) == {"train", "val", "test"}
    batch = next(iter(data.train_loader(None, 0, 1)))
    assert batch["views"].shape[1:] == (1, known.channels, known.image_size, known.image_size)
    assert batch["label"].max() <= 9


def test_commands_read_like_a_recipe():
    for name in ("train.py", "finetune.py", "compare.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 100
