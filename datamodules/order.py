"""In which order samples come: a permutation from (seed, epoch), and a position that is the number of samples seen.

Nothing here depends on the number of workers, and the global batch is sliced before ranks stride over it, so the same
batches come on one process and on eight, and a run that was interrupted at sample n goes on with sample n.

Samples that lie in shards are not permuted freely once they are many: shards come in random order, and samples are mixed
with those of the shards that come next to their own, so that what is read lies together. Rows of different lengths are
put into batches with rows of about their own length, because a batch is filled up to its longest.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

WINDOW = 1 << 16  # samples that are mixed, at least; webdataset's usual buffers hold some thousands
ALIKE = 16  # batches among which rows are sorted by length


def permutation(seed: int, epoch: int, num_samples: int) -> torch.Tensor:
    """The order of one epoch, shape (num_samples,); a pure function of its arguments."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(num_samples, generator=generator)


def permutation_of_shards(seed: int, epoch: int, shard: np.ndarray, window: int = WINDOW) -> torch.Tensor:
    """The order of one epoch, shape (num_samples,), a pure function of its arguments.

    Args:
        shard: (num_samples,) in which one each sample lies.
        window: whole shards, in random order, are put together until they have that many samples, and these are shuffled.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    by_shard = torch.from_numpy(np.argsort(shard, kind="stable"))
    members = by_shard.split(np.unique(shard, return_counts=True)[1].tolist())
    windows, together, size = [], [], 0
    for place, number in enumerate(torch.randperm(len(members), generator=generator).tolist(), 1):
        together.append(members[number])
        size += len(members[number])
        if size >= window or place == len(members):
            windows.append(torch.cat(together)[torch.randperm(size, generator=generator)])
            together, size = [], 0
    return torch.cat(windows)


def alike(order: torch.Tensor, lengths: np.ndarray, batch_size: int, first: int, seed: int) -> torch.Tensor:
    """The same samples, rows of about one length together; a pure function of its arguments.

    Of every `ALIKE` batches the rows are sorted by length and cut into batches again, which then come in random order.

    Args:
        order: (n,) of one epoch.
        lengths: of all samples.
        batch_size: samples that are filled up to one length.
        first: how many samples of this epoch fill up a batch that the epoch before began.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    parts = [order[:first]]
    for window in order[first:].split(ALIKE * batch_size):
        whole, rest = window.tensor_split([len(window) // batch_size * batch_size])
        batches = whole[torch.from_numpy(np.argsort(lengths[whole.numpy()], kind="stable"))].view(-1, batch_size)
        parts += [batches[torch.randperm(len(batches), generator=generator)].flatten(), rest]
    return torch.cat(parts)


def without_repeats(order: np.ndarray, begun: np.ndarray, missing: int) -> np.ndarray:
    """The same samples, the first `missing` of them none of those with which the epoch before has begun a batch.

    Losses that compare the samples of a batch would push a picture away from itself. No more than the first
    len(begun) + missing change places.
    """
    head = order[: len(begun) + missing]
    fresh = np.flatnonzero(~np.isin(head, begun))[:missing]
    return np.concatenate([head[fresh], np.delete(head, fresh), order[len(head) :]])


class Order(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) pairs: one endless stream of permutations, cut into global batches.

    Every sample comes exactly once an epoch; a batch may end one epoch and begin the next, so no sample is dropped. In no
    batch does a sample come twice, unless there are fewer samples than two batches take.

    Args:
        num_samples: size of the training split.
        batch_size: the global batch, over all ranks.
        num_batches: how many batches the whole run takes (also the length, so that a resumed run counts the same).
        seed: of the permutations.
        first_batch: the batch to begin with; the number of batches seen so far when a run is resumed.
        rank, world_size: this process takes every world_size-th sample of each global batch.
        shard: (num_samples,) in which shard each sample lies, where they do.
        lengths: (num_samples,) of rows that are filled up to the longest of their batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        first_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shard: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
    ):
        self.num_samples, self.batch_size, self.num_batches = num_samples, batch_size, num_batches
        self.seed, self.first_batch, self.rank, self.world_size = seed, first_batch, rank, world_size
        self.shard, self.lengths = shard if num_samples > WINDOW else None, lengths

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        cached_epoch, order = -1, np.empty(0, int)
        for batch in range(self.first_batch, self.num_batches):
            first = batch * self.batch_size
            pairs = []
            for position in range(first + self.rank, first + self.batch_size, self.world_size):
                epoch, offset = divmod(position, self.num_samples)
                if epoch != cached_epoch:
                    cached_epoch, order = epoch, self._permutation(epoch)
                pairs.append((epoch, int(order[offset])))
            yield pairs

    def _permutation(self, epoch: int) -> np.ndarray:
        order, missing = self._shuffled(epoch), -epoch * self.num_samples % self.batch_size
        if 0 < missing < self.num_samples and epoch > 0:
            tail = self._shuffled(epoch - 1)[missing - self.batch_size :]  # which `without_repeats` has left as it was
            order = without_repeats(order, tail, missing)
        if self.lengths is None or self.shard is not None:
            return order
        return alike(torch.from_numpy(order), self.lengths, self.batch_size, missing, self.seed * 1_000_003 + epoch).numpy()

    def _shuffled(self, epoch: int) -> np.ndarray:
        if self.shard is not None:
            return permutation_of_shards(self.seed, epoch, self.shard).numpy()
        return permutation(self.seed, epoch, self.num_samples).numpy()
