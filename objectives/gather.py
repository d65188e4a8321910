"""Candidates from all ranks, with gradient: the one mode of every cross-sample loss.

Each rank scores its own anchors against everybody's candidates. The backward pass sums the gradients over ranks and
takes this rank's slice; the data-parallel mean then makes it exactly the gradient of one process with the whole batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_candidates(local: Tensor) -> Tensor:
    """(b, ...) on each of W ranks -> (W b, ...) in rank order; the tensor itself where nothing is distributed."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    return torch.cat(all_gather(local.contiguous()))


def mean_over_ranks(local: Tensor) -> Tensor:
    """The mean over all ranks, without gradient; the tensor itself where nothing is distributed."""
    local = local.detach()
    if not (dist.is_available() and dist.is_initialized()):
        return local
    total = local.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def first_own_row(local_rows: int) -> int:
    """Where this rank's rows begin among the gathered ones."""
    distributed = dist.is_available() and dist.is_initialized()
    return dist.get_rank() * local_rows if distributed else 0
