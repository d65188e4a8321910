"""Ranks as users start them: by the plain command, by torchrun, by srun; what goes wrong ends all of them, with a reason."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, error_line
from made_runs import words_for
from processes import children, gone
from safetensors.torch import load_file

from reports.result import read_result
from training.ranks import join

STEPS = 200
PAIR = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.precision=fp32"]


@pytest.fixture(scope="module")
def words(pictures, texts) -> list[str]:
    return [*words_for("mlm", pictures, texts), "monitor.times=0", "optimizer.base_lr=0.02"]


def begin(cwd: Path, *command: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen) -> None:
    began = time.monotonic()
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() - began < 240, "nothing happens"
        time.sleep(0.05)


def test_a_rank_that_dies_ends_the_job_and_one_process_goes_on(here, tmp_path, words):
    train = [*words, f"budget.steps={STEPS}", "trainer.checkpoint_every_steps=20", "hydra.run.dir=run"]
    process = begin(tmp_path, str(ROOT / "train.py"), *train, "trainer=ddp", *PAIR)
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    ranks = children(process)
    assert set(ranks) == {0, 1}
    assert "going on in another process" in error_line(here("train.py", "resume=run", "trainer=cpu"))
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    text, _ = process.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert process.returncode == 128 + signal.SIGKILL
    assert re.search(r"\nerror: rank 1 of 2 ended by SIGKILL .*memory", text), text
    assert "objective  mlm" in text
    assert text.count("step 1 of") == 1  # one rank speaks
    assert gone(list(ranks.values()), 10)
    assert not (tmp_path / "run" / "result.json").exists()

    done = here("train.py", "resume=run", "trainer=cpu", "trainer.precision=fp32")
    assert done.returncode == 0, done.stdout
    assert re.search(r"resumed at step [1-9]\d", done.stdout)
    done = here("train.py", *train[:-1], "hydra.run.dir=alone", "trainer.accelerator=cpu", "trainer.precision=fp32")
    assert done.returncode == 0, done.stdout
    found, expected = (read_result(tmp_path / name / "result.json").metrics for name in ("run", "alone"))
    assert found["first_loss"] == pytest.approx(expected["first_loss"], rel=1e-4)  # of the whole run, not of its rest
    assert found["last_loss"] == pytest.approx(expected["last_loss"], rel=1e-2)


def test_a_launcher_that_is_asked_to_stop_leaves_no_thread(tmp_path):
    # one that is in a call of C++ when Python ends aborts the process, and torch's keeps calling its store
    (tmp_path / "rank.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    (tmp_path / "start.py").write_text(
        "import sys, threading\n"
        "from errors import RunStopped\n"
        "from training.launch import launch\n"
        "sys.argv[0] = 'rank.py'\n"
        "try:\n"
        "    launch(2, [], 'run')\n"
        "except RunStopped as error:\n"
        "    print(error.exit_code, [thread.name for thread in threading.enumerate()])\n"
    )
    process = begin(tmp_path, "start.py", PYTHONPATH=str(ROOT))
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0].splitlines()[-1] == f"{128 + signal.SIGTERM} ['MainThread']"


@pytest.mark.long
@pytest.mark.parametrize("victim", ["parent", "rank"])
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_signal_to_any_of_them_saves_and_stops_them_all(tmp_path, words, name, victim):
    train = [*words, f"budget.steps={STEPS}", "trainer.checkpoint_every_steps=20", "hydra.run.dir=run", f"trainer={name}"]
    process = begin(tmp_path, str(ROOT / "train.py"), *train, *PAIR, "trainer.workers=1")
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    ranks = children(process)
    os.kill(process.pid if victim == "parent" else ranks[1], signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(re.findall(r"error: stopped by SIGTERM at step \d+ of 200; .*resume=run", text)) == 1, text
    assert "Traceback" not in text
    assert gone(list(ranks.values()), 10)
    done = command("train.py", "resume=run", "trainer=fsdp", *PAIR, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    done = command("train.py", *train, *PAIR, "hydra.run.dir=whole", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    found, expected = (load_file(tmp_path / run / "encoder" / "model.safetensors") for run in ("run", "whole"))
    for weight in expected:
        if expected[weight].ndim > 1:
            assert (found[weight] - expected[weight]).abs().max() < 1e-2 * expected[weight].abs().max()


@pytest.mark.long
def test_ranks_do_not_outlive_a_parent_that_is_killed(tmp_path, words):
    train = [*words, "budget.steps=100000", "trainer.checkpoint_every_steps=20", "hydra.run.dir=run", "trainer=ddp", *PAIR]
    process = begin(tmp_path, str(ROOT / "train.py"), *train)
    wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
    ranks = list(children(process).values())
    process.kill()
    assert gone(ranks, 30)


@pytest.mark.long
def test_torchrun_and_srun_start_the_same(tmp_path, words):
    train = [*words, "budget.steps=6", "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=fp32"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    done = subprocess.run([*torchrun, *train, "trainer.devices=auto"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [path.parent for path in (tmp_path / "outputs").rglob("result.json")]  # one folder, whatever the clocks say
    assert len(list(run.parent.iterdir())) == 1
    done = subprocess.run([*torchrun, "-m", *train], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "every rank would run the whole sweep; start -m with plain python" in done.stderr

    tasks = {"SLURM_STEP_NUM_TASKS": 2, "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_STEP_NUM_NODES": 1}
    tasks |= {"SLURM_JOB_ID": 12345, "SLURM_NODEID": 0, "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "pretrain"}
    srun = [
        begin(tmp_path, str(ROOT / "train.py"), *train, "trainer.devices=2", "hydra.run.dir=slurm",
              **{name: str(value) for name, value in {**tasks, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}.items()})
        for rank in range(2)
    ]  # fmt: skip
    texts = [process.communicate(timeout=240)[0] for process in srun]
    assert [process.returncode for process in srun] == [0, 0], texts
    results = [read_result(folder / "result.json").metrics for folder in (run, tmp_path / "slurm")]
    assert results[0]["last_loss"] == results[1]["last_loss"]


@pytest.mark.long
def test_each_job_of_a_sweep_has_processes_of_its_own(tmp_path, words):
    done = command("train.py", "-m", *words, "seed=0,1", "budget.steps=3", "trainer=ddp", *PAIR, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    results = [read_result(path) for path in sorted((tmp_path / "outputs").rglob("result.json"))]
    assert [result.seed for result in results] == [0, 1]
    assert results[0].metrics["last_loss"] != results[1].metrics["last_loss"]


@pytest.mark.parametrize(
    ("more", "environment", "expected"),
    [
        (["trainer=ddp", "trainer.num_nodes=2", *PAIR], {}, "several nodes need one process a device"),
        (["trainer.devices=2"], {}, "trainer=ddp or trainer=fsdp"),
        (["trainer=ddp", "trainer.devices=0"], {}, "positive number or auto, not 0"),
        (["trainer=ddp", "trainer.strategy=dpp"], {}, "no trainer.strategy 'dpp'; did you mean ddp"),
        ([], {"RANK": "0", "WORLD_SIZE": "2"}, "2 processes were started, but this is a run of one; choose trainer=ddp"),
        (["trainer=ddp", "trainer.devices=3"], {"RANK": "0", "WORLD_SIZE": "2"}, "ask for 3; several nodes"),
        (["trainer.accumulate=3"], {}, "take a multiple of 3"),
        (["objective=simclr", "trainer.accumulate=2", "datamodule=emoji"], {}, "batch norm see parts"),
    ],
)
def test_what_cannot_be_started_is_refused_in_one_line(here, monkeypatch, words, more, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    words = [word for word in words if "=" not in word or not any(word.split("=")[0] == other.split("=")[0] for other in more)]
    if "objective=simclr" in more:
        words = ["model.depth=1", "monitor.times=0"]
    line = error_line(here("train.py", *words, *more, "budget.steps=2"))
    assert expected in line, line


def test_transfer_runs_on_one_device(here):
    assert "one device" in error_line(here("finetune.py", "checkpoint=none", "trainer=ddp", *PAIR))


@pytest.mark.parametrize(("accelerator", "expected"), [("cpu", []), ("auto", [1]), ("gpu", [1])])
def test_a_rank_takes_its_gpu_where_gpus_are_asked_for(monkeypatch, accelerator, expected):
    taken = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **_: None)
    settings = {"accelerator": accelerator, "strategy": "ddp", "devices": 2, "num_nodes": 1}
    assert join(settings).rank == 1
    assert taken == expected
