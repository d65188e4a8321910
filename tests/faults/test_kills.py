"""A run that is killed goes on bit for bit, whatever it was doing: weights, moments, metrics, curves, counts.

Here it is killed at the moments that are hardest; `make faults` adds random ones.
"""

import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from forks import begin, die, run
from made_runs import words_for
from same import differences

STEPS = 6
SPEED = ["trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.checkpoint_every_steps=2"]


def words(objective: str, pictures: Path, texts: Path) -> list[str]:
    noisy = {"mae": ["model.drop_path=0.2"], "mlm": ["model.dropout=0.1"], "rtd": ["objective.sharing=disentangled"]}
    return [
        *words_for(objective, pictures, texts), *noisy.get(objective, []), *SPEED, f"budget.steps={STEPS}", "monitor.times=3",
        "monitor.pictures=96", "monitor.share=1e9", "optimizer.base_lr=0.02", "hydra.run.dir=run", "resume=auto",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(pictures, texts, tmp_path_factory):
    """objective -> the folder of an uninterrupted run."""
    known: dict[str, Path] = {}

    def found(objective: str) -> Path:
        if objective not in known:
            known[objective] = tmp_path_factory.mktemp("whole")
            code, text = run(known[objective], *words(objective, pictures, texts))
            assert code == 0, text
        return known[objective] / "run"

    return found


def count_down(number: int, target: object, name: str, last: object = None) -> None:
    """Let the process die in the `number`-th call of a function, before it does anything or after `last`."""
    real, calls = getattr(target, name), iter(range(number - 1))

    def counted(*arguments, **settings):
        if next(calls, None) is None:
            if last is not None:
                last(*arguments, **settings)
            die()
        return real(*arguments, **settings)

    setattr(target, name, counted)


def half_a_file(checkpoint: dict, path: Path) -> None:
    torch.save(checkpoint, path)
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size // 2)


def _module(name: str):
    import importlib

    return importlib.import_module(name)


MOMENTS = {
    "before anything is claimed": lambda: count_down(1, _module("training.run").Run, "claim"),
    "while the settings are written": lambda: count_down(1, _module("training.run").os, "link"),
    "before the first checkpoint": lambda: count_down(2, _module("training.pretraining").Pretraining, "training_step"),
    "in the middle of the first checkpoint": lambda: count_down(
        1, _module("training.checkpoints").L.Trainer, "save_checkpoint", lambda trainer, path: half_a_file({}, path)
    ),
    "in the middle of the second checkpoint": lambda: count_down(
        2, _module("training.checkpoints").L.Trainer, "save_checkpoint", lambda trainer, path: half_a_file({}, path)
    ),
    "between two renames": lambda: count_down(2, _module("training.checkpoints").os, "replace"),
    "while it is monitored": lambda: count_down(2, _module("training.monitors"), "rankme"),
    "in mid-epoch": lambda: count_down(5, _module("training.pretraining").Pretraining, "optimizer_step"),
    "after the last checkpoint": lambda: count_down(1, _module("training.record"), "save_encoder"),
    "while the encoder is exported": lambda: count_down(1, _module("models.export").os, "replace"),
    "before the result is written": lambda: count_down(1, _module("reports.result").Result, "write"),
}
QUICK = {"in the middle of the second checkpoint", "while it is monitored", "after the last checkpoint"}


@pytest.mark.parametrize("moment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in MOMENTS])
def test_killed_at_the_worst_moments(whole, pictures, texts, tmp_path, moment):
    code, text = run(tmp_path, *words("mlm", pictures, texts), prepare=MOMENTS[moment])
    assert code == -signal.SIGKILL, text
    assert not (tmp_path / "run" / "result.json").exists()
    code, text = run(tmp_path, *words("mlm", pictures, texts), "trainer.workers=1")
    assert code == 0, text
    assert differences(tmp_path / "run", whole("mlm")) == []
    assert not list((tmp_path / "run").rglob("*.part"))


def ask_before(target: object, name: str) -> None:
    """Let the process get SIGTERM just before it calls a function."""
    real = getattr(target, name)

    def asked(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **settings)

    setattr(target, name, asked)


def test_sigterm_just_before_a_run_listens_stops_it_before_its_first_step(whole, pictures, texts, tmp_path):
    early = partial(ask_before, _module("training.checkpoints").Checkpoints, "on_train_start")
    code, text = run(tmp_path, *words("mlm", pictures, texts), prepare=early)
    assert code == 128 + signal.SIGTERM, text
    assert text.splitlines()[-1] == "error: stopped by SIGTERM; no checkpoint was saved yet"
    code, text = run(tmp_path, *words("mlm", pictures, texts))
    assert code == 0, text
    assert differences(tmp_path / "run", whole("mlm")) == []


def test_sigterm_ends_a_fine_tuning_in_one_line(pictures, tmp_path):
    asked = ["checkpoint=none", "model=vit_t", "model.depth=1", "transfer=finetune"]
    asked += ["datamodule=image_folder", f"datamodule.root={pictures}", "trainer.accelerator=cpu"]
    early = partial(ask_before, _module("training.progress").ProgressLine, "on_train_start")
    code, text = run(tmp_path, *asked, prepare=early, script="finetune.py")
    assert code == 128 + signal.SIGTERM, text
    again = "a transfer that has no result.json yet begins anew with the same command"
    assert text.splitlines()[-1] == f"error: stopped by SIGTERM; {again}"


@pytest.mark.long
@pytest.mark.parametrize("objective", ["mae", "simclr", "rtd"])
@pytest.mark.parametrize("moment", ["in mid-epoch", "while it is monitored"])
def test_other_objectives_too(whole, pictures, texts, tmp_path, objective, moment):
    code, text = run(tmp_path, *words(objective, pictures, texts), prepare=MOMENTS[moment])
    assert code == -signal.SIGKILL, text
    code, text = run(tmp_path, *words(objective, pictures, texts))
    assert code == 0, text
    assert differences(tmp_path / "run", whole(objective)) == []


def test_going_on_with_what_is_finished_or_other_or_not_there(whole, pictures, texts, tmp_path):
    same = words("mlm", pictures, texts)
    finished = whole("mlm")
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != "run.lock"}
    code, text = run(finished.parent, *same)  # a job that was requeued too often
    assert code == 0, text
    code, text = run(finished.parent, *same, "optimizer.base_lr=0.03")
    assert code == 2
    assert re.search(r"other settings, .*optimizer.base_lr is 0.02 there, 0.03 here", text)
    code, text = run(finished.parent, *same[:-1], "resume=run")
    assert code == 2
    assert "is finished" in text
    assert before == {path: path.stat().st_mtime_ns for path in before}
    code, text = run(tmp_path, *same[:-1], "resume=run")
    assert code == 2
    assert "holds no run to resume" in text


def test_two_processes_never_write_one_run(whole, pictures, texts, tmp_path):
    import time

    endless = (*words("mlm", pictures, texts), "budget.steps=100000", "monitor.times=0")
    fork = begin(tmp_path, *endless)
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.02)
    code, text = run(tmp_path, "resume=run")
    assert code == 2
    assert "is going on in another process" in text
    os.kill(fork.pid, signal.SIGTERM)
    assert fork.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize("moment", ["before its first step", "while the encoder is exported"])
def test_ctrl_c_at_moments_when_no_step_can_answer_it(whole, pictures, texts, tmp_path, moment):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def prepare() -> None:
        if moment == "before its first step":
            _module("training.checkpoints").Checkpoints.setup = interrupt
        else:
            _module("training.record").save_encoder = interrupt

    code, text = run(tmp_path, *words("mlm", pictures, texts), prepare=prepare)
    assert code == 128 + signal.SIGINT, text
    assert re.search(r"^error: interrupted; ", text.strip().splitlines()[-1]), text
    assert "Traceback" not in text
    code, text = run(tmp_path, *words("mlm", pictures, texts))
    assert code == 0, text
    assert differences(tmp_path / "run", whole("mlm")) == []
