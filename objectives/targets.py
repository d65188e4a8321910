"""How sums over targets become a loss: divided by the targets of the whole step, so that every target weighs the same.

The whole step is all ranks and, where a step is taken in several parts, all parts. How many targets the later parts have
must be known when the first one is differentiated, so they are counted first, in a pass without gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_step: "Parts | None" = None


class Parts:
    """What the parts of one step must know of each other.

    Attributes:
        num: of parts.
        counting: whether targets are being counted now; else they were, and `counts` says how many.
        counts: targets of all ranks and parts, for each `mean_over_targets` of a forward pass, in their order.
    """

    def __init__(self, num: int, counting: bool, counts: list[Tensor]):
        self.num, self.counting, self.counts, self.called = num, counting, counts, 0

    def whole(self, num_targets: Tensor) -> Tensor:
        """The targets of the whole step, or while counting those so far."""
        call, self.called = self.called, self.called + 1
        if self.counting:
            if call == len(self.counts):
                self.counts.append(torch.zeros_like(num_targets, dtype=torch.float32))
            self.counts[call] += over_ranks(num_targets)
        return self.counts[call]


@contextmanager
def parts_of_a_step(num: int, counting: bool = False, counts: list[Tensor] | None = None) -> Iterator[Parts]:
    """While this lasts, a forward pass sees one of `num` parts of a step."""
    global _step
    _step = Parts(num, counting, [] if counts is None else counts)
    try:
        yield _step
    finally:
        _step = None


def in_parts() -> bool:
    """Whether the batch at hand is only a part of a step."""
    return _step is not None and _step.num > 1


def over_ranks(number: Tensor) -> Tensor:
    """The sum over all ranks, float32, without gradient."""
    number = number.detach().float()
    if dist.is_available() and dist.is_initialized():
        number = number.clone()
        dist.all_reduce(number)
    return number


def mean_over_targets(total: Tensor, num_targets: Tensor) -> Tensor:
    """The sum divided by the global number of targets.

    Ranks average their gradients, and so do parts of a step; this one's share is multiplied by their number. Rows, ranks or
    parts without a target add zero.
    """
    shares = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if _step is None:
        whole = over_ranks(num_targets)
    else:
        whole, shares = _step.whole(num_targets), shares * _step.num
    return total * shares / whole.clamp(min=1)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole for the report, 0 where there is nothing."""
    return part.detach().float() / torch.as_tensor(whole, device=part.device).float().clamp(min=1)
