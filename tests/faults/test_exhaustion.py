"""A machine that runs out of disk or memory: one clear last line, the last good checkpoint intact, a non-zero exit code."""

import itertools
import re
import resource
import subprocess
from collections.abc import Callable

import pytest
import torch
from forks import run
from made_runs import words_for
from same import differences

from conf.endings import _exhausted

STEPS = 6
SPEED = ["trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.checkpoint_every_steps=2", "monitor.times=0"]


@pytest.fixture(scope="module")
def words(pictures, texts) -> list[str]:
    return [*words_for("mlm", pictures, texts), *SPEED, f"budget.steps={STEPS}", "hydra.run.dir=run", "resume=auto"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, text = run(folder, *words)
    assert code == 0, text
    return folder / "run"


def no_file_above(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def at_step(number: int, fault: Callable[[], None]) -> Callable[[], None]:
    """Have something happen in the forward pass of that step."""

    def prepare() -> None:
        from training.pretraining import Pretraining

        real, steps = Pretraining.training_step, itertools.count(1)

        def step(module, *arguments):
            if next(steps) == number:
                fault()
            return real(module, *arguments)

        Pretraining.training_step = step

    return prepare


def before_the_export() -> None:
    import training.record

    real = training.record.save_encoder

    def save(*arguments):
        no_file_above(20_000)
        return real(*arguments)

    training.record.save_encoder = save


def eat_memory() -> None:
    torch.empty(10**13)


FAULTS = {
    "disk, from the beginning": (lambda: no_file_above(100_000), "step 2 cannot be written: .*; no checkpoint was saved yet"),
    "disk, later": (
        at_step(3, lambda: no_file_above(100_000)),
        "step 4 cannot be written: .*last good checkpoint is run/ch.*resume=run",
    ),
    "disk, at the very end": (before_the_export, "File too large.*|.*os error 27"),
    "memory": (
        at_step(4, eat_memory),
        "out of memory: .*(not enough|can.t allocate) memory.*try trainer.accumulate=2.*last good checkpoint is run/ch",
    ),
    "memory of Python": (at_step(4, lambda: bytearray(10**15)), "out of memory: .*last good checkpoint is run/ch"),
}


@pytest.mark.parametrize(
    "fault", [name if name == "disk, later" else pytest.param(name, marks=pytest.mark.long) for name in FAULTS]
)
def test_what_runs_out_is_said_and_nothing_is_lost(words, whole, tmp_path, fault):
    prepare, expected = FAULTS[fault]
    code, text = run(tmp_path, *words, prepare=prepare)
    assert code == 1, text
    line = text.strip().splitlines()[-1]
    assert re.search(f"^error: .*{expected}", line), text
    assert "Traceback" not in text
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))
    code, text = run(tmp_path, *words)  # when there is room again
    assert code == 0, text
    assert differences(tmp_path / "run", whole) == []


@pytest.mark.long
def test_a_full_file_system(words, whole, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        code, text = run(tmp_path / "cwd", *words[:-2], f"hydra.run.dir={small}/run", "resume=auto")
        assert code == 1, text
        line = text.strip().splitlines()[-1]
        assert "cannot be written: No space left on device; the last good checkpoint is" in line, text
        assert (small / "run" / "checkpoints" / "last.ckpt").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        code, text = run(tmp_path / "cwd", *words[:-2], f"hydra.run.dir={small}/run", "resume=auto")
        assert code == 0, text
        assert differences(small / "run", whole) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_errors_of_every_kind_that_mean_it():
    full = OSError(28, "No space left on device", "run/x")
    full.add_note("the last good checkpoint is run/checkpoints/last.ckpt")
    assert (
        _exhausted(full)
        == "'run/x' cannot be written: No space left on device; the last good checkpoint is run/checkpoints/last.ckpt"
    )
    assert "No space left" in _exhausted(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert _exhausted(torch.OutOfMemoryError("CUDA out of memory")).startswith("out of memory: CUDA out of memory; try ")
    for host in ("not enough memory", "can't allocate memory"):  # by which way it asked the system
        assert _exhausted(RuntimeError(f"DefaultCPUAllocator: {host}: you tried")).startswith("out of memory: DefaultCPU")
    assert _exhausted(MemoryError()).startswith("out of memory")
    for other in (OSError(2, "No such file"), RuntimeError("shapes differ"), ValueError("os error")):
        assert _exhausted(other) is None
