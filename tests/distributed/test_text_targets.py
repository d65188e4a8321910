"""Losses over targets on two real gloo processes: the gradient of one process with the whole batch, however they are spread."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.targets import mean_over_targets

WORLD = 2


def step(hidden: Tensor, target: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    """(loss, gradient) of one process."""
    weight = weight.clone().requires_grad_()
    nats, _ = linear_cross_entropy(hidden.flatten(0, 1), weight, None, target.flatten())
    loss = mean_over_targets(nats, (target >= 0).sum())
    loss.backward()
    return loss.item(), weight.grad


def one_rank(hidden: Tensor, targets: list[Tensor], weight: Tensor) -> list[tuple[float, float, Tensor]]:
    rank, found = dist.get_rank(), []
    for target in targets:
        loss, own = step(hidden[rank::WORLD], target[rank::WORLD], weight)  # as the order strides
        mean = own.clone()
        dist.all_reduce(mean)  # the data-parallel mean
        found.append((loss, own.abs().max().item(), mean / WORLD))
    return found


def test_every_target_weighs_the_same_on_every_rank(two_ranks):
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(8, 6, 5), torch.randn(7, 5), torch.randint(0, 7, (8, 6))
    uneven, one_without, none = target.clone(), target.clone(), torch.full_like(target, -100)
    uneven[1::WORLD, 1:] = -100
    one_without[1::WORLD] = -100
    targets = [target, uneven, one_without, none]
    expected = [step(hidden, target, weight) for target in targets]

    ranks = two_ranks(one_rank, hidden, targets, weight)
    for first, second, (whole_loss, whole) in zip(*ranks, expected, strict=True):
        for _, _, mean in (first, second):
            torch.testing.assert_close(mean, whole, rtol=1e-5, atol=1e-6)
        assert (first[0] + second[0]) / WORLD == pytest.approx(whole_loss, rel=1e-5)
    assert ranks[1][2][:2] == (0.0, 0.0)  # a rank without a target adds zero, no NaN
    assert expected[3][0] == ranks[0][3][0] == 0
