"""Candidates from all ranks, with gradient: the one mode of every cross-sample loss.

Each rank scores its own anchors against everybody's candidates. The backward pass sums the gradients over ranks and
takes this rank's slice; the data-parallel mean then makes it exactly the gradient of one process with the whole batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from errors import BadInput
from objectives.targets import in_parts


def gather_candidates(local: Tensor) -> Tensor:
    """(b, ...) on each of W ranks -> (W b, ...) in rank order; the tensor itself where nothing is distributed.

    Raises:
        BadInput: the batch is only a part of a step, in which the other candidates are missing.
    """
    if in_parts():
        raise BadInput(
            "trainer.accumulate would change which candidates are compared: this objective looks at all samples of a step; "
            "large batches in little memory are what grad_cache is for (objective=clip objective.grad_cache.chunks=<number>)"
        )
    return gather_rows(local)


def gather_rows(local: Tensor) -> Tensor:
    """As `gather_candidates`, for rows that are kept and not compared with this step's: a part of a step will do."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    return _Gather.apply(local.contiguous())


def total_over_ranks(local: Tensor) -> Tensor:
    """The sum over all ranks, elementwise, with gradient; the tensor itself where nothing is distributed."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    return _Total.apply(local)


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


def need_two(num_candidates: int) -> None:
    """Raise BadInput where there is nothing to be told apart."""
    if num_candidates < 2:
        raise BadInput("pairs are compared with the other pairs of their batch: datamodule.batch_size must be at least 2")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        whole = local.new_empty(dist.get_world_size() * len(local), *local.shape[1:])
        dist.all_gather_into_tensor(whole, local)
        return whole

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(len(gradient) // dist.get_world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        total = local.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
