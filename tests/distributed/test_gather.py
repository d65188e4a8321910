"""Cross-sample losses on two real gloo processes: the gradient of one process with the whole batch, to float64 rounding."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from objectives.simclr import nt_xent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_rank(rank: int, world: int, port: int, inputs: torch.Tensor, weight: torch.Tensor, results) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    weight = weight.clone().requires_grad_()
    own = inputs[:, rank::world]  # as the order strides
    loss = nt_xent(own[0] @ weight, own[1] @ weight, 0.5)[0]
    loss.backward()
    dist.all_reduce(weight.grad)  # the data-parallel mean
    results.put((rank, (weight.grad / world).tolist(), loss.item()))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2])
def test_two_ranks_give_the_gradient_of_the_whole_batch(world):
    torch.manual_seed(0)
    inputs, weight = torch.randn(2, 8, 5, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    whole = weight.clone().requires_grad_()
    expected = nt_xent(inputs[0] @ whole, inputs[1] @ whole, 0.5)[0]
    expected.backward()

    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    mp.spawn(one_rank, (world, free_port(), inputs, weight, results), nprocs=world)
    gathered = [results.get() for _ in range(world)]
    for _, gradient, _ in gathered:
        torch.testing.assert_close(torch.tensor(gradient, dtype=torch.float64), whole.grad, rtol=1e-9, atol=1e-12)
    mean_loss = sum(loss for *_, loss in gathered) / world
    assert mean_loss == pytest.approx(expected.item(), rel=1e-9)
