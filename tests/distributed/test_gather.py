"""Cross-sample losses on two real gloo processes: the gradient of one process with the whole batch, to float64 rounding."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from objectives.gather import gather_candidates, total_over_ranks
from objectives.simclr import nt_xent


def one_rank(inputs: Tensor, weight: Tensor) -> tuple[Tensor, float]:
    rank, world = dist.get_rank(), dist.get_world_size()
    weight = weight.clone().requires_grad_()
    own = inputs[:, rank::world]  # as the order strides
    loss = nt_xent(own[0] @ weight, own[1] @ weight, 0.5)[0]
    loss.backward()
    dist.all_reduce(weight.grad)  # the data-parallel mean
    return weight.grad / world, loss.item()


def test_two_ranks_give_the_gradient_of_the_whole_batch(two_ranks):
    torch.manual_seed(0)
    inputs, weight = torch.randn(2, 8, 5, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    whole = weight.clone().requires_grad_()
    expected = nt_xent(inputs[0] @ whole, inputs[1] @ whole, 0.5)[0]
    expected.backward()

    answers = two_ranks(one_rank, inputs, weight)
    for gradient, _ in answers:
        torch.testing.assert_close(gradient, whole.grad, rtol=1e-9, atol=1e-12)
    assert sum(loss for _, loss in answers) / len(answers) == pytest.approx(expected.item(), rel=1e-9)


def weighted(local: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is gathered and summed, and the gradients of this rank's own function of each."""
    rank = dist.get_rank()
    gathered_in, summed_in = local[rank].clone().requires_grad_(), local[rank].clone().requires_grad_()
    gathered, summed = gather_candidates(gathered_in), total_over_ranks(summed_in)
    (gathered * factors[rank]).sum().backward()
    (summed * factors[rank, :3]).sum().backward()
    return gathered.detach(), gathered_in.grad, summed.detach(), summed_in.grad


def test_gathering_and_summing_give_back_everybodys_gradient(two_ranks):
    torch.manual_seed(0)
    local, factors = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 6, 4, dtype=torch.float64)
    for rank, (gathered, gather_gradient, summed, sum_gradient) in enumerate(two_ranks(weighted, local, factors)):
        assert torch.equal(gathered, local.flatten(0, 1))
        torch.testing.assert_close(gather_gradient, factors.sum(0)[3 * rank : 3 * rank + 3])
        torch.testing.assert_close(summed, local.sum(0))
        torch.testing.assert_close(sum_gradient, factors[:, :3].sum(0))
