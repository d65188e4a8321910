"""Synchronised batch norm on two real processes: outputs, gradients and statistics of one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from training.batch_norm import has_batch_norm, synchronise_batch_norm


def layer(kind: str) -> nn.Module:
    torch.manual_seed(1)
    made = {
        "1d": lambda: nn.BatchNorm1d(4),
        "2d": lambda: nn.BatchNorm2d(4),
        "plain": lambda: nn.BatchNorm1d(4, affine=False, momentum=None),
        "act": lambda: BatchNormAct2d(4, act_layer=nn.ReLU),
    }[kind]()
    for weight in made.parameters():
        nn.init.normal_(weight)
    return nn.Sequential(made).double()


def learn(network: nn.Module, x: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
    """(output, gradient of the input, gradients of the weights ..., statistics ...) after two steps."""
    for _ in range(2):
        network.zero_grad()
        own = x.clone().requires_grad_()
        output = network(own)
        (output * factor).sum().backward()
    gradients = [weight.grad for weight in network.parameters()]
    return output.detach(), own.grad, *gradients, *(buffer.double() for buffer in network.buffers())


def one_rank(kind: str, x: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
    rank, world = dist.get_rank(), dist.get_world_size()
    network = synchronise_batch_norm(layer(kind), "cpu")
    output, gradient, *others = learn(network, x[rank::world], factor[rank::world])
    num_weights = len(list(network.parameters()))
    for shared in others[:num_weights]:
        dist.all_reduce(shared)
    evaluated = network.eval()(x[rank::world])
    return output, gradient, *others, evaluated.detach()


@pytest.mark.parametrize("kind", ["1d", "2d", "plain", "act"])
def test_statistics_are_those_of_the_whole_batch(two_ranks, kind):
    torch.manual_seed(0)
    shape = (8, 4, 3, 3) if kind in ("2d", "act") else (8, 4)
    x, factor = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    network = layer(kind)
    output, gradient, *others = learn(network, x, factor)
    evaluated = network.eval()(x).detach()
    for rank, (own, own_gradient, *theirs, own_evaluated) in enumerate(two_ranks(one_rank, kind, x, factor)):
        torch.testing.assert_close(own, output[rank::2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own_gradient, gradient[rank::2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(own_evaluated, evaluated[rank::2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(theirs, others, rtol=1e-9, atol=1e-12)


def test_names_of_weights_stay(resnet):
    before = list(resnet.state_dict())
    assert has_batch_norm(resnet)
    synchronise_batch_norm(resnet, "cpu")
    assert list(resnet.state_dict()) == before
    assert has_batch_norm(resnet)


def test_a_transformer_has_none(vit):
    assert not has_batch_norm(vit)
