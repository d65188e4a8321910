"""Freed memory stays with the process: by what the system counts as resident, in a process that has set nothing before."""

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

MEASURE = """
import psutil
import torch
from training.allocator import give_back_holes, keep_freed_memory

{first}
resident = psutil.Process().memory_info
before = resident().rss
tensors = [torch.ones(20 * 2**18) for _ in range(10)]  # 20 MB each
del tensors
{then}
print((resident().rss - before) / 2**20)
"""
# glibc moves its thresholds by what it has seen so far, which imports decide; told one, it leaves them where they are
FIXED = {"MALLOC_MMAP_THRESHOLD_": str(128 * 2**10), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**10)}


def kept_after(first: str, then: str = "") -> float:
    """MB that are still with the process when 200 were freed."""
    program = [sys.executable, "-c", MEASURE.format(first=first, then=then)]
    return float(subprocess.run(program, cwd=ROOT, env=os.environ | FIXED, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides for itself")
def test_what_is_freed_stays_for_the_next_step_unless_it_is_given_back():
    assert kept_after("") < 50
    assert kept_after("keep_freed_memory()") > 150
    assert kept_after("keep_freed_memory()", then="give_back_holes()") < 50
