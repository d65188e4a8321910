"""The fused layer against F.cross_entropy in float64: loss, number right, gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from objectives import linear_cross_entropy as module
from objectives.linear_cross_entropy import linear_cross_entropy

ROWS, WIDTH, CLASSES = 23, 12, 17


def problem(ignored: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH, generator=generator), torch.randn(CLASSES, WIDTH, generator=generator)
    target = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    target[:5] = (hidden @ weight.T).argmax(1)[:5]  # some are right
    if ignored:
        target[::4] = -100
    return hidden, weight, torch.randn(CLASSES, generator=generator), target


def ours(hidden, weight, bias, target) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    nats, correct = linear_cross_entropy(*leaves, *([None] if bias is None else []), target)
    (3 * nats).backward()
    return nats.detach(), correct, [leaf.grad for leaf in leaves]


def reference(hidden, weight, bias, target) -> tuple[torch.Tensor, int, list[torch.Tensor]]:
    leaves = [tensor.double().requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    logits = F.linear(*leaves)
    nats = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
    (3 * nats).backward()
    return nats.detach(), int((logits.argmax(1) == target).sum()), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("chunk", [1, 5 * CLASSES, 2**21])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("ignored", [True, False])
def test_loss_number_right_and_gradients_equal(monkeypatch, chunk, with_bias, ignored):
    monkeypatch.setattr(module, "CHUNK", chunk)
    hidden, weight, bias, target = problem(ignored)
    bias = bias if with_bias else None
    mine, other = ours(hidden, weight, bias, target), reference(hidden, weight, bias, target)
    torch.testing.assert_close(mine[0].double(), other[0], rtol=1e-5, atol=1e-5)
    assert mine[1] == other[1] > 0
    assert len(mine[2]) == 2 + with_bias
    for a, b in zip(mine[2], other[2], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [ROWS, 0])
def test_without_any_target_all_is_zero(rows):
    hidden, weight, bias, target = problem(False)
    nats, correct, gradients = ours(hidden[:rows], weight, bias, torch.full_like(target[:rows], -100))
    assert nats == correct == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_huge_logits_stay_finite():
    hidden, weight, bias, target = problem(False)
    mine, other = ours(1e3 * hidden, weight, bias, target), reference(1e3 * hidden, weight, bias, target)
    torch.testing.assert_close(mine[0].double(), other[0], rtol=1e-5, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in mine[2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_computed_for_them(mode):
    hidden, weight, bias, target = problem(True)
    expected = reference(hidden, weight, bias, target)
    with mode(), FlopCounterMode(display=False) as counter:
        nats, correct = linear_cross_entropy(hidden, weight.requires_grad_(), bias, target)
    torch.testing.assert_close(nats.double(), expected[0], rtol=1e-5, atol=1e-5)
    assert correct == expected[1]
    assert counter.get_total_flops() == 2 * ROWS * WIDTH * CLASSES


def test_every_product_of_the_forward_and_the_backward_pass_is_counted():
    hidden, weight, bias, target = problem(True)
    with FlopCounterMode(display=False) as counter:
        ours(hidden, weight, bias, target)
    assert counter.get_total_flops() == 3 * 2 * ROWS * WIDTH * CLASSES


def test_frozen_parts_get_no_gradient():
    hidden, weight, bias, target = problem(True)
    expected = reference(hidden, weight, bias, target)[2][0]
    hidden.requires_grad_()
    linear_cross_entropy(hidden, weight, bias, target)[0].backward()
    torch.testing.assert_close(3 * hidden.grad.double(), expected, rtol=1e-5, atol=1e-5)
    assert weight.grad is None


def test_bf16_autocast_is_close_and_gradients_keep_the_weights_type():
    hidden, weight, bias, target = problem(True)
    expected = reference(hidden, weight, bias, target)
    with torch.autocast("cpu", torch.bfloat16):
        nats, _, gradients = ours(hidden, weight, bias, target)
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats.double(), expected[0], rtol=1e-2, atol=1e-2)
    for mine, other in zip(gradients, expected[2], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.02 * other.norm()
