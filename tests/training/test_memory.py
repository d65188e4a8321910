"""Peak memory: of a process itself, whatever the one that started it has needed, and of another by its number."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from training.memory import peak_memory_bytes, peak_resident_bytes

LARGE = 2**29

SMALL_AND_LARGER = f"""
from training.memory import peak_memory_bytes
before = peak_memory_bytes()
held = b"x" * {LARGE}
print(before, peak_memory_bytes())
"""


@pytest.mark.skipif(peak_resident_bytes("self") is None, reason="only Linux tells it from the parent's")
def test_the_peak_is_that_of_the_process_and_not_of_its_parent():
    held = b"x" * (3 * LARGE)  # more than the imports of the child
    child = [sys.executable, "-c", SMALL_AND_LARGER]
    printed = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    before, after = map(int, printed.split())
    assert peak_memory_bytes() > len(held)
    assert before < len(held)
    assert after - before == pytest.approx(LARGE, rel=0.1)


@pytest.mark.skipif(peak_resident_bytes("self") is None, reason="only Linux says it of others")
def test_the_peak_of_another_process_by_its_number():
    assert peak_resident_bytes(os.getppid()) > 2**20
    assert peak_resident_bytes(os.getpid()) == peak_resident_bytes("self") == peak_memory_bytes()


def test_a_process_that_is_gone_has_no_peak():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert peak_resident_bytes(process.pid) is None


FORGETFUL = f"""
from training.memory import forget_peak, peak_memory_bytes
held = b"x" * {LARGE}
del held
before = peak_memory_bytes()
forget_peak()
print(before - peak_memory_bytes())
"""


@pytest.mark.skipif(peak_resident_bytes("self") is None, reason="only Linux forgets it")
def test_what_earlier_runs_of_a_process_needed_can_be_forgotten():
    printed = subprocess.run([sys.executable, "-c", FORGETFUL], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(printed) > 0.9 * LARGE
