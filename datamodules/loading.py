"""Loaders over samples that make whole batches: in training order, or each sample once."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.order import Order

EVALUATION_BATCH = 256


def ordered_loader(samples: Dataset, order: Order, workers: int) -> DataLoader:
    """Training batches; `samples.__getitems__` turns a list of (epoch, index) into one batch."""
    return DataLoader(samples, batch_sampler=order, collate_fn=whole_batch, **worker_settings(workers))


def complete_loader(
    samples: Dataset,
    num: int,
    limit: int | None,
    workers: int,
    batch_size: int = EVALUATION_BATCH,
    lengths: np.ndarray | None = None,
) -> DataLoader:
    """Each of `num` samples once; `limit` takes that many, evenly spaced.

    They come in order, or by their `lengths` (num,), so that rows which are filled up to the longest are filled up little.
    """
    chosen = np.arange(num)
    if limit is not None and limit < num:
        chosen = np.linspace(0, num - 1, limit).astype(int)
    if lengths is not None:
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
    batches = [[(0, int(i)) for i in part] for part in np.array_split(chosen, max(1, -(-len(chosen) // batch_size)))]
    return DataLoader(samples, batch_sampler=batches, collate_fn=whole_batch, **worker_settings(workers))


def whole_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """For the loader: the samples make whole batches, there is nothing left to collate."""
    return batch


def batches(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
    """Batches that hold at least one readable sample."""
    return (batch for batch in loader if len(batch["index"]))


def worker_settings(workers: int) -> dict[str, Any]:
    if workers == 0:
        return {}
    return {
        "num_workers": workers,
        "prefetch_factor": 4,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _prepare_worker,
    }


def _prepare_worker(worker: int) -> None:
    torch.set_num_threads(1)  # decoding is parallel over workers; more threads each would only fight
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a tokenizer's threads do not survive a fork: it would wait forever
    for number in (signal.SIGINT, signal.SIGTERM):  # these reach the whole group; the training process answers them
        signal.signal(number, signal.SIG_IGN)
