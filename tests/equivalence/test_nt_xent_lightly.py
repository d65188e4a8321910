"""NT-Xent against lightly's, and against the formula written out in float64."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss

from objectives.simclr import nt_xent


def naive(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Equation 1 of the paper, one anchor at a time, in float64."""
    views = torch.nn.functional.normalize(torch.cat([first, second]).double(), dim=1)
    num, losses = len(first), []
    for i in range(2 * num):
        positive = (i + num) % (2 * num)
        similarity = [float(views[i] @ views[j]) / temperature for j in range(2 * num)]
        others = [similarity[j] for j in range(2 * num) if j != i]
        highest = max(others)
        losses.append(-similarity[positive] + highest + math.log(sum(math.exp(value - highest) for value in others)))
    return torch.tensor(sum(losses) / len(losses), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.005])
def test_loss_equals_lightlys_and_the_formula(temperature):
    torch.manual_seed(0)
    first, second = torch.randn(2, 16, 32)
    loss, _ = nt_xent(first, second, temperature)
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss.double(), naive(first, second, temperature), rtol=1e-5, atol=1e-5)
    if temperature >= 0.1:
        torch.testing.assert_close(loss, NTXentLoss(temperature)(first, second), rtol=1e-5, atol=1e-5)


def test_gradients_equal_lightlys():
    torch.manual_seed(0)
    views = torch.randn(2, 16, 32, requires_grad=True)
    ours = torch.autograd.grad(nt_xent(views[0], views[1], 0.5)[0], views)[0]
    theirs = torch.autograd.grad(NTXentLoss(0.5)(views[0], views[1]), views)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_computed_in_float32_under_autocast():
    first, second = torch.randn(2, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = nt_xent(first.bfloat16(), second.bfloat16(), 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), naive(first.bfloat16(), second.bfloat16(), 0.1), rtol=1e-4, atol=1e-4)


def test_accuracy_is_one_for_equal_views_and_small_for_unrelated_ones():
    views = torch.randn(2, 64, 128)
    assert nt_xent(views[0], views[0], 0.5)[1] == 1
    assert nt_xent(views[0], views[1], 0.5)[1] < 0.1
