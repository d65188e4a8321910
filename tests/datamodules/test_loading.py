"""Batches come out of workers as they went in, the small tensors by value."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from processes import gone
from torch.utils.data import Dataset

from datamodules.loading import SMALL, batch_loader

MADE = {
    "views": torch.arange(SMALL + 1, dtype=torch.int32).to(torch.uint8).view(1, -1),
    "ids": torch.arange(12).view(3, 4),
    "present": torch.tensor([[True, False], [False, True]]),
    "label": torch.tensor([0.5, -1.0]),
    "corrupt": torch.tensor(3),
    "empty": torch.empty(0, dtype=torch.uint8),
}


class Made(Dataset):
    def __getitems__(self, pairs):
        return dict(MADE)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_what_the_samples_made(workers):
    batches = list(batch_loader(Made(), [[(0, 0)], [(0, 1)], [(0, 2)]], workers))
    assert len(batches) == 3
    for batch in batches:
        assert type(batch) is dict
        assert batch.keys() == MADE.keys()
        for name, value in batch.items():
            assert value.dtype == MADE[name].dtype
            assert torch.equal(value, MADE[name])
            value.zero_()  # what is read-only would warn, or fail


def test_only_large_tensors_are_shared_between_processes():
    (batch,) = batch_loader(Made(), [[(0, 0)]], 1)
    assert {name for name, value in batch.items() if value.is_shared()} == {"views"}


ORPHANS = """
import os, signal, time
import torch
from torch.utils.data._utils import worker
from datamodules.loading import SMALL, batch_loader

class Full(torch.utils.data.Dataset):
    def __getitems__(self, pairs):  # of which a pipe holds not even one, all of it by value
        return {name: torch.zeros(SMALL, dtype=torch.uint8) for name in "abcd"}

worker.MP_STATUS_CHECK_INTERVAL = 0.2  # instead of five seconds after which workers look whether they are alone
batches = iter(batch_loader(Full(), [[(0, i)] for i in range(100)], 2))
next(batches)
time.sleep(1)
print(*(worker.pid for worker in batches._workers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_of_a_killed_process_end():
    with subprocess.Popen([sys.executable, "-c", ORPHANS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        workers = [int(word) for word in process.stdout.readline().split()]
        process.wait()
    assert len(workers) == 2
    ended = gone(workers, 20)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    assert ended
