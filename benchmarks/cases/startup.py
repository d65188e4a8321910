"""How long commands take before they do something: `train.py --help`, and from a command to its first step."""

import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from conf import choices_of, read_choice

HOME = Path(__file__).parents[2]
HELP_TARGET, STEP_TARGET = 2.0, 10.0  # seconds
PATIENCE = 300.0  # seconds
FIRST_STEP = ("budget.steps=1", "monitor.times=0", "trainer=cpu")


def help_seconds() -> float:
    """Until `train.py --help` has ended."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "train.py", "--help"], cwd=HOME, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def step_seconds(objective: str, words: Sequence[str] = ()) -> float:
    """From the command to the line that tells of the first step, its data indexed already.

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
            return _until_first_step(process, began) - began
        finally:
            process.kill()
            process.wait()


def _until_first_step(process: subprocess.Popen, began: float) -> float:
    text = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while time.perf_counter() - began < PATIENCE:
            if not ready.select(timeout=1.0):
                continue
            part = process.stdout.read(4096)
            text += part
            if b"step 1 of 1" in text:
                return time.perf_counter()
            if not part:
                lines = text.decode(errors="replace").strip().splitlines() or ["no word"]
                raise RuntimeError(f"no first step: {lines[-1]}")
    raise RuntimeError(f"no first step in {PATIENCE:.0f} s")


def objectives() -> list[str]:
    """Those whose command needs nothing but their name."""
    return [name for name in choices_of("objective") if "???" not in str(read_choice("objective", name))]
