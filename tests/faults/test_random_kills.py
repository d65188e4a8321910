"""`make faults`: runs that are killed at random moments, by signals and by kill -9, and go on until they are done.

Every finished run must be the uninterrupted one bit for bit; of two ranks, whose sums may be ordered otherwise, to 1e-6.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, command
from forks import begin, run
from made_runs import words_for
from made_shards import words_for_shards
from processes import children
from safetensors.torch import load_file
from same import differences

OBJECTIVES = ("mae", "simclr", "mlm", "rtd", "clip")
KILLS = 25
RANK_KILLS = 6
NUM_IN_SHARDS = 24  # samples
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDINGS = {  # of a run that got a signal: before it trains, by the default action
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {-signal.SIGTERM, 128 + signal.SIGTERM},
    signal.SIGINT: {128 + signal.SIGINT},
}

pytestmark = pytest.mark.long


def words(objective: str, pictures: Path, texts: Path, num_steps: int) -> list[str]:
    noisy = {"mae": ["model.drop_path=0.2"], "mlm": ["model.dropout=0.1"], "rtd": ["objective.sharing=disentangled"]}
    if objective == "clip":
        (texts / "shards").mkdir(exist_ok=True)
        small = [*words_for_shards(texts / "shards", NUM_IN_SHARDS), "datamodule.batch_size=4"]
    else:
        small = words_for(objective, pictures, texts)
    return [
        *small, *noisy.get(objective, []), f"budget.steps={num_steps}", "monitor.times=4",
        "monitor.pictures=96", "monitor.share=1e9", "optimizer.base_lr=0.02", "trainer.checkpoint_every_steps=1",
        "trainer.accelerator=cpu", "trainer.precision=fp32", "hydra.run.dir=run", "resume=auto",
    ]  # fmt: skip


def where(folder: Path) -> str:
    """What a killed run was doing, as its files tell."""
    if not (folder / "config.yaml").exists():
        return "not begun"
    if (folder / "checkpoints" / "next.part").exists():
        return "writing a checkpoint"
    if not (folder / "checkpoints" / "last.ckpt").exists():
        return "between two renames" if (folder / "checkpoints" / "previous.ckpt").exists() else "before its first checkpoint"
    return "finished but for the result" if (folder / "encoder.json").exists() else "elsewhere"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_killed_at_random_moments_and_gone_on_with(objective, pictures, texts, tmp_path, capsys):
    chance, asked = random.Random(objective), words(objective, pictures, texts, num_steps=30)
    began = time.monotonic()
    code, text = run(tmp_path / "whole", *asked, seconds=600)
    assert code == 0, text
    longest = 1.2 * (time.monotonic() - began)

    kills, finished, doing = Counter(), 0, Counter()
    while kills.total() < KILLS or finished == 0:
        cwd = tmp_path / f"killed_{finished}"
        fork, number = begin(cwd, *asked, *chance.choice([[], ["trainer.workers=1"]])), chance.choice(SIGNALS)
        patience = chance.uniform(0.2, longest) if kills.total() < KILLS else 600
        code = fork.wait(patience)
        if code is None:
            fork.kill(number)
            code = fork.wait(120)
            assert code is not None, f"{signal.Signals(number).name} does not end it"
            if code in ENDINGS[number]:
                kills[signal.Signals(number).name] += 1
                doing[where(cwd / "run")] += 1
                continue
        assert code == 0, fork.log.read_text()
        assert differences(cwd / "run", tmp_path / "whole" / "run") == []
        finished += 1
    with capsys.disabled():
        print(
            f"\n{objective}: {kills.total()} kills {dict(kills)}, when {dict(doing)}; {finished} runs finished, all bit-equal"
        )


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_ranks_are_killed_and_gone_on_with(name, pictures, texts, tmp_path, capsys):
    chance = random.Random(name)
    asked = [*words("mlm", pictures, texts, num_steps=60), f"trainer={name}", "trainer.devices=2", "trainer.accelerator=cpu"]
    asked = [word for word in asked if not word.startswith("monitor.times")] + ["monitor.times=2", "model.dropout=0"]
    done = command("train.py", *asked, cwd=_made(tmp_path / "whole"), timeout=600)
    assert done.returncode == 0, done.stdout
    kills, cwd = Counter(), _made(tmp_path / "killed")
    while kills.total() < RANK_KILLS:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *asked], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        checkpoint = cwd / "run" / "checkpoints" / "last.ckpt"
        before, until = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0, time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is None:
            ranks = children(process)
            victim, number = chance.choice([(process.pid, signal.SIGTERM), (process.pid, signal.SIGKILL)] + [
                (pid, number) for pid in ranks.values() for number in (signal.SIGTERM, signal.SIGKILL)
            ])  # fmt: skip
            os.kill(victim, number)
            assert process.wait(timeout=90) != 0
            kills[f"{signal.Signals(number).name} to {'the parent' if victim == process.pid else 'a rank'}"] += 1
            time.sleep(2)  # ranks notice a parent that was killed within a second
        else:
            assert process.returncode == 0
            break
    if not (cwd / "run" / "result.json").exists():
        done = command("train.py", *asked, cwd=cwd, timeout=600)
        assert done.returncode == 0, done.stdout
    found, expected = (load_file(folder / "run" / "encoder" / "model.safetensors") for folder in (cwd, tmp_path / "whole"))
    worst = max((found[weight] - expected[weight]).abs().max().item() for weight in expected)
    assert worst <= 1e-6
    with capsys.disabled():
        print(f"\n{name} on two ranks: {kills.total()} kills {dict(kills)}; largest difference of a weight {worst:.1g}")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
