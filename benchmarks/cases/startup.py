"""How long commands take before they do something: `train.py --help`, and from a command to its first step.

What the first step itself takes is the objective's, and stands beside that.
"""

import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate import SideFailed
from conf import choices_of, read_choice

HOME = Path(__file__).parents[2]
HELP_TARGET, STEP_TARGET = 2.0, 10.0  # seconds
PATIENCE = 300.0  # seconds
FIRST_STEP = ("budget.steps=1", "monitor.times=0", "trainer=cpu")
SIGNS = (b"step 0 of 1", b"step 1 of 1")  # in what train.py prints: the first step begins, and is done


def help_seconds() -> float:
    """Until `train.py --help` has ended.

    Raises:
        SideFailed: it ended with an error.
    """
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=HOME, capture_output=True, text=True)
    if done.returncode:
        raise SideFailed(f"train.py --help: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return time.perf_counter() - began


def step_seconds(objective: str, words: Sequence[str] = ()) -> tuple[float, float]:
    """From the command until its first step begins, and until that is done; its data are indexed already.

    Raises:
        RuntimeError: the command ended without one; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [f"objective={objective}", *FIRST_STEP, f"hydra.run.dir={folder}/run", *words]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-u", "train.py", *words], cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        try:
            begun, done = _seen(process, SIGNS)
            return begun - began, done - began
        finally:
            process.kill()
            process.wait()


def _seen(process: subprocess.Popen, signs: Sequence[bytes]) -> list[float]:
    """When each of the signs came, which come in this order."""
    text, seen, deadline = b"", [], time.perf_counter() + PATIENCE
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while time.perf_counter() < deadline:
            if not ready.select(timeout=1.0):
                continue
            part = process.stdout.read(4096)
            text += part
            while signs[len(seen)] in text:
                seen.append(time.perf_counter())
                if len(seen) == len(signs):
                    return seen
            if not part:
                lines = text.decode(errors="replace").strip().splitlines() or ["no word"]
                raise RuntimeError(f"no first step: {lines[-1]}")
    raise RuntimeError(f"no first step in {PATIENCE:.0f} s")


def objectives() -> list[str]:
    """Those whose command needs nothing but their name."""
    return [name for name in choices_of("objective") if "???" not in str(read_choice("objective", name))]
