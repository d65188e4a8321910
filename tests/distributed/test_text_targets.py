"""Losses over targets on two real gloo processes: the gradient of one process with the whole batch, however they are spread."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.targets import mean_over_targets

WORLD = 2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def step(hidden: Tensor, target: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    """(loss, gradient) of one process."""
    weight = weight.clone().requires_grad_()
    nats, _ = linear_cross_entropy(hidden.flatten(0, 1), weight, None, target.flatten())
    loss = mean_over_targets(nats, (target >= 0).sum())
    loss.backward()
    return loss.item(), weight.grad


def one_rank(rank: int, port: int, hidden: Tensor, targets: list[Tensor], weight: Tensor, results) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    for target in targets:
        loss, own = step(hidden[rank::WORLD], target[rank::WORLD], weight)  # as the order strides
        mean = own.clone()
        dist.all_reduce(mean)  # the data-parallel mean
        results.put((rank, loss, own.abs().max().item(), (mean / WORLD).tolist()))
    dist.barrier()
    dist.destroy_process_group()


def test_every_target_weighs_the_same_on_every_rank():
    torch.manual_seed(0)
    hidden, weight, target = torch.randn(8, 6, 5), torch.randn(7, 5), torch.randint(0, 7, (8, 6))
    uneven, one_without, none = target.clone(), target.clone(), torch.full_like(target, -100)
    uneven[1::WORLD, 1:] = -100
    one_without[1::WORLD] = -100
    targets = [target, uneven, one_without, none]
    expected = [step(hidden, target, weight) for target in targets]

    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    mp.spawn(one_rank, (free_port(), hidden, targets, weight, results), nprocs=WORLD)
    gathered = [results.get() for _ in range(WORLD * len(targets))]
    ranks = [[result[1:] for result in gathered if result[0] == rank] for rank in range(WORLD)]
    for first, second, (whole_loss, whole) in zip(*ranks, expected, strict=True):
        for _, _, mean in (first, second):
            torch.testing.assert_close(torch.tensor(mean), whole, rtol=1e-5, atol=1e-6)
        assert (first[0] + second[0]) / WORLD == pytest.approx(whole_loss, rel=1e-5)
    assert ranks[1][2][:2] == (0.0, 0.0)  # a rank without a target adds zero, no NaN
    assert expected[3][0] == ranks[0][3][0] == 0
