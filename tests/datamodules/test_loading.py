"""Batches come out of workers as they went in, the small tensors by value."""

import pytest
import torch
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
