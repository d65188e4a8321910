"""Freed memory stays with the process: counted by the system's page faults, in a process that has set nothing before."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT

COUNT = """
import resource
import torch
from training.allocator import keep_freed_memory

{first}
def step():
    tensors = [torch.ones(20 * 2**18) for _ in range(10)]  # 20 MB each
faults = []
for _ in range(4):
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-2])
"""


def faults_of_a_step(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(first=first)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides for itself")
def test_the_next_step_pays_for_no_page_again():
    assert faults_of_a_step("") > 4_000  # one tensor at least, most often all
    assert faults_of_a_step("keep_freed_memory()") < 100
