"""Measured processes: they take turns, their loaders are a command's, and they end with nothing left of them."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.gate import SideFailed, SideProcess


def three_steps_and_a_fault(gate):
    gate.describe(parameters=7, workers_start=multiprocessing.get_start_method())
    for number in range(3):
        gate.step(number=number)
    raise RuntimeError("deliberate")


def test_a_side_takes_its_turns_in_its_own_process(capfd):
    process = SideProcess("side", three_steps_and_a_fault, ())
    found = process.run(2)
    assert found == process.told
    assert (found["parameters"], found["number"]) == (7, 1)
    assert found["workers_start"] == multiprocessing.get_start_method()  # as those of a command
    assert found["seconds"] > 0
    assert found["peak_memory_bytes"] >= found["started_bytes"] > 0
    assert process.run(1)["number"] == 2
    with pytest.raises(SideFailed, match="side ended with exit code 1"):
        process.run(1)
    assert "deliberate" in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("script", ["run", "overhead", "growth"])
def test_ctrl_c_is_answered_in_one_line_and_leaves_no_process(script):
    case = {"run": "data", "overhead": "mlm", "growth": "batch"}[script]
    program = [sys.executable, f"benchmarks/{script}.py", case, "--toy"]
    process = subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: measures(process.pid))
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    _, said = process.communicate(timeout=10)  # sides are importing: nobody waits for them
    assert process.returncode == 130
    assert said.splitlines()[-1].strip() == "stopped"
    assert "Traceback" not in said
    wait_for(lambda: not alive(process.pid))


LOADER = """
import tempfile
from pathlib import Path

from torch.utils.data import DataLoader

from benchmarks.gate import SideProcess
from training.memory import peak_memory_bytes


def side(gate):
    (Path(tempfile.mkdtemp()) / "left").touch()
    for _ in DataLoader(range(10**6), num_workers=1):
        gate.step(alone=peak_memory_bytes())


if __name__ == "__main__":
    with SideProcess("loader", side, ()) as process:
        found = process.run(3)
    print(process.process.exitcode, Path(process.folder.name).exists(), found["peak_memory_bytes"] > found["alone"])
"""


def test_a_side_counts_and_ends_its_loaders_workers_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "loader.py").write_text(LOADER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "loader.py"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "0 False True\n"
    assert done.stderr == ""  # where Python would name what is left


def measures(pid):
    """Whether a process has begun to start others that measure; what it imports may start some too, before it can answer."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"multiprocessing" in Path(f"/proc/{child}/cmdline").read_bytes():
                return True
    return False


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(group):
    """Whether a process group still has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
