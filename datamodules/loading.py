"""Loaders over samples that make whole batches: in a given order, or each sample once."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

EVALUATION_BATCH = 256
SMALL = 2**16  # bytes of a tensor that are cheaper to copy than to share


def batch_loader(samples: Dataset, order: Iterable[list[tuple[int, int]]], workers: int) -> DataLoader:
    """`samples.__getitems__` turns each list of (epoch, index) of `order` into one whole batch, here or in a worker."""
    return DataLoader(samples, batch_sampler=order, collate_fn=Sent if workers else dict, **_worker_settings(workers))


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
    return batch_loader(samples, batches, workers)


class Sent(dict[str, Tensor]):
    """A batch of a worker, which the training process receives as a plain dictionary.

    PyTorch sends each tensor as an open file of shared memory, by a socket of its own. With the small ones among the pickled
    bytes instead, two workers give an eighth more batches of 64 small pictures with captions (`benchmarks/run.py data`).
    """

    def __reduce__(self) -> tuple[Callable[..., dict[str, Tensor]], tuple[dict[str, Tensor | np.ndarray]]]:
        return _received, ({name: value.numpy() if value.nbytes <= SMALL else value for name, value in self.items()},)


def _received(sent: dict[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in sent.items()}


def batches(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
    """Batches that hold at least one readable sample."""
    return (batch for batch in loader if len(batch["index"]))


def _worker_settings(workers: int) -> dict[str, Any]:
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
    Finalize(None, _leave_orphaned, args=(os.getppid(),), exitpriority=0)  # before queues wait for their readers


def _leave_orphaned(parent: int) -> None:
    """End at once where the training process was killed.

    Python would wait until somebody has read the last batches. Nobody does, and the pipe stays open, for other workers hold it.
    """
    if os.getppid() != parent:
        os._exit(1)
