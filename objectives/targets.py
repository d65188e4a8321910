"""How sums over targets become a loss: divided by the number of targets of all ranks, so that every target weighs the same."""

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_targets(total: Tensor, num_targets: Tensor) -> Tensor:
    """The sum divided by the global number of targets.

    Ranks average their gradients, so this rank's share is multiplied by their number. Rows or ranks without a target add zero.
    """
    num_targets, ranks = num_targets.detach().float(), 1
    if dist.is_available() and dist.is_initialized():
        num_targets, ranks = num_targets.clone(), dist.get_world_size()
        dist.all_reduce(num_targets)
    return total * ranks / num_targets.clamp(min=1)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole for the report, 0 where there is nothing."""
    return part.detach().float() / torch.as_tensor(whole, device=part.device).float().clamp(min=1)
