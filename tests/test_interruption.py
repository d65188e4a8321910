"""Runs that are stopped: killed, asked to stop, or gone astray. What was saved goes on bit for bit."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, error_line
from safetensors.torch import load_file

from errors import RunStopped
from reports.result import read_result
from training.course import Stopwatch
from training.pretraining import Pretraining

STEPS = 12


def settings(objective: str, pictures: Path) -> list[str]:
    model = {
        "mae": ["model.depth=2", "model.drop_path=0.2"],
        "simclr": ["model=resnet18"],
        "moco_v2": ["model.depth=2", "model.drop_path=0.2", "objective.queue_size=64"],
        "dino": ["model.depth=2", "objective.num_local=2"],
    }[objective]
    return [
        f"objective={objective}", *model, "datamodule=image_folder", f"datamodule.root={pictures}",
        f"budget.steps={STEPS}", "datamodule.batch_size=8", "trainer.checkpoint_every_steps=3", "monitor.times=2",
        "trainer.attention=eager",  # not what auto comes to, so that a run that went on with auto would round otherwise
    ]  # fmt: skip


def begin(cwd: Path, *words: str) -> subprocess.Popen:
    """Start train.py as a terminal would: a shell's background jobs ignore SIGINT, and their children would inherit that."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for_step(process: subprocess.Popen, step: int) -> str:
    """Read the log until a step is reported."""
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith(f"step {step} of "):
            return text
    raise AssertionError(text)


@pytest.fixture(
    scope="module", params=["mae", *(pytest.param(name, marks=pytest.mark.long) for name in ("simclr", "moco_v2", "dino"))]
)
def uninterrupted(request, tmp_path_factory, pictures) -> tuple[str, Path]:
    cwd = tmp_path_factory.mktemp("whole")
    done = command("train.py", *settings(request.param, pictures), "hydra.run.dir=run", cwd=cwd)
    assert done.returncode == 0, done.stdout
    return request.param, cwd / "run"


@pytest.mark.parametrize(
    ("ending", "step"),
    [
        *(pytest.param(*ending, marks=pytest.mark.long) for ending in ((signal.SIGKILL, 5), (signal.SIGTERM, 6))),
        (signal.SIGINT, 8),
    ],
)
def test_an_interrupted_run_goes_on_bit_for_bit(uninterrupted, here, tmp_path, pictures, ending, step):
    objective, whole = uninterrupted
    process = begin(tmp_path, *settings(objective, pictures), "hydra.run.dir=run")
    wait_for_step(process, step)
    process.send_signal(ending)
    rest = process.stdout.read()
    code = process.wait(timeout=60)
    if ending == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + ending
        assert re.search(rf"error: stopped by {ending.name} at step \d+ of {STEPS}; .*resume=run", rest), rest
        assert "Traceback" not in rest
    assert not (tmp_path / "run" / "result.json").exists()

    done = here("train.py", "resume=run", "trainer.workers=2")  # workers change nothing
    assert done.returncode == 0, done.stdout
    assert re.search(r"resumed at step [1-9]", done.stdout)
    ours, expected = (load_file(folder / "encoder.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    last, reference = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (tmp_path / "run", whole)
    )
    assert last["global_step"] == reference["global_step"] == STEPS
    assert all(torch.equal(last["state_dict"][name], tensor) for name, tensor in reference["state_dict"].items())
    moments, reference_moments = last["optimizer_states"][0]["state"], reference["optimizer_states"][0]["state"]
    for key, state in reference_moments.items():
        assert all(torch.equal(moments[key][name], value) for name, value in state.items())
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))

    line = error_line(here("train.py", "resume=run"))
    assert "is finished" in line


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(here, tmp_path, pictures):
    done = here(
        "train.py", *settings("mae", pictures), "optimizer.base_lr=1e6", "trainer.checkpoint_every_steps=1",
        "optimizer.warmup=0", "hydra.run.dir=run",
    )  # fmt: skip
    line = error_line(done)
    what = r"(the loss is (nan|inf)|the weights '.*' are no longer finite) at step \d+ of 12, learning rate [\d.e+]+; "
    assert re.search(what + ".*(last good|no) checkpoint", line), line
    if (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())


def test_two_runs_never_share_a_folder(here, tmp_path, pictures):
    words = [*settings("mae", pictures), "monitor.times=0", "hydra.run.dir=run"]
    first = here("train.py", *words)
    assert first.returncode == 0, first.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "holds a run already" in error_line(here("train.py", *words))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_signal_before_the_first_step_ends_in_one_line(tmp_path, pictures):
    process = begin(tmp_path, *settings("mae", pictures))
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGINT)
    text = process.stdout.read()
    assert process.wait(timeout=60) != 0
    assert text.count("Traceback") <= 1  # Python itself may still be importing


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Every step takes a second, whatever the machine does; at the second that is written into [1] the run breaks down."""
    time_and_end, step = [0.0, math.inf], Pretraining.training_step

    def timed(module: Pretraining, *arguments: object) -> torch.Tensor:
        time_and_end[0] += 1
        if time_and_end[0] > time_and_end[1]:
            raise RunStopped("broken down")
        return step(module, *arguments)

    monkeypatch.setattr(Pretraining, "training_step", timed)
    monkeypatch.setattr("training.pretraining.Stopwatch", partial(Stopwatch, lambda: time_and_end[0]))
    return time_and_end


def test_a_run_by_the_clock_ends_in_time_and_goes_on_bit_for_bit(here, tmp_path, pictures, clock):
    words = [word for word in settings("mae", pictures) if not word.startswith("budget.")]
    words += ["budget.minutes=0.2", "trainer.checkpoint_every_steps=4", "monitor.times=1"]  # 12 seconds
    done = here("train.py", *words, "hydra.run.dir=whole")
    assert done.returncode == 0, done.stdout
    assert "0.2 minutes of training time" in done.stdout
    clock[:] = [0.0, 9.0]
    assert "broken down; the last good checkpoint" in error_line(here("train.py", *words, "hydra.run.dir=run"))
    clock[:] = [1000.0, math.inf]  # a night later
    done = here("train.py", "resume=run")
    assert done.returncode == 0, done.stdout
    assert "resumed at step 8" in done.stdout
    whole, run = (read_result(tmp_path / name / "result.json") for name in ("whole", "run"))
    assert whole.budget_spent == run.budget_spent
    assert whole.budget_spent["steps"] == 12
    assert whole.budget_spent["minutes"] == pytest.approx(0.2)
    assert whole.metrics == run.metrics
    assert whole.samples_per_second == run.samples_per_second == 8
    ours, expected = (load_file(tmp_path / name / "encoder.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_run_whose_data_changed_is_not_gone_on_with(here, tmp_path, pictures, clock):
    copied = shutil.copytree(pictures, tmp_path / "pictures")
    clock[:] = [0.0, 4.0]
    assert "broken down" in error_line(here("train.py", *settings("mae", copied), "hydra.run.dir=run"))
    recorded = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["headstart"]["data"]
    assert recorded["classes"] == ["blue", "green", "red"]
    picture = copied / "train" / "red" / "000.png"
    shutil.copy(picture, picture.with_name("more.png"))
    num = recorded["training samples"]
    expected = f"the data changed (training samples: {num} then, {num + 1} now); begin a new run"
    assert expected in error_line(here("train.py", "resume=run"))


@pytest.mark.parametrize("budget", ["budget.steps=3", "budget.minutes=0.05"])
def test_a_run_that_was_killed_before_its_result_needs_no_step_more(here, tmp_path, pictures, clock, budget):
    words = [*(word for word in settings("mae", pictures) if not word.startswith("budget.")), budget, "hydra.run.dir=run"]
    assert here("train.py", *words).returncode == 0
    before, weights = read_result(tmp_path / "run" / "result.json"), load_file(tmp_path / "run" / "encoder.safetensors")
    for name in ("result.json", "encoder.json", "encoder.safetensors"):
        (tmp_path / "run" / name).unlink()
    done = here("train.py", "resume=run")
    assert done.returncode == 0, done.stdout
    after = read_result(tmp_path / "run" / "result.json")
    assert (after.budget_spent, after.metrics, after.seconds) == (before.budget_spent, before.metrics, before.seconds)
    assert clock[0] == 3
    ours = load_file(tmp_path / "run" / "encoder.safetensors")
    assert all(torch.equal(ours[name], weight) for name, weight in weights.items())
