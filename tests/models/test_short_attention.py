"""The Triton kernels, run by Triton's interpreter, against PyTorch's attention in float64; and what goes timm's own way."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
from triton_interpreter import interpret

from models import short_attention
from models.short_attention import LONGEST, ShortAttention, has_kernel

SHAPES = [  # pictures, tokens, heads, width of a head
    (2, 1, 1, 32),
    (2, 5, 3, 16),
    (1, 16, 2, 64),
    (2, 50, 2, 64),
    (1, 64, 2, 32),
    (1, 65, 1, 64),
    (1, 197, 1, 32),
    (1, 256, 1, 16),
]
HALF = torch.bfloat16


def compare_all() -> None:
    from models.short_attention_kernel import attend, attend_backward

    for shape in SHAPES:
        qkv, grad = inputs(*shape)
        mixed, log_total = attend(qkv, shape[2])
        compare(mixed, *attend_backward(qkv, mixed, log_total, grad, shape[2]), qkv, grad, shape[2])
    for length in (37, 80):
        qkv, grad = inputs(1, length, 2, 16)
        mixed, log_total = attend(qkv[:0], 2)
        assert mixed.shape == (0, length, 32)
        grad_qkv, total = attend_backward(qkv[:0], mixed, log_total, grad[:0], 2)
        assert grad_qkv.shape == (0, length, 96)
        assert torch.equal(total, torch.zeros(96))
    compare_compiled()
    compare_layers()


def compare_layers() -> None:
    """The gradients of all weights, with a bias of queries, keys and values and without."""
    short_attention.has_kernel = lambda *_: True  # the process ends with this test
    for bias in (True, False):
        torch.manual_seed(0)
        layer = Attention(32, 2, qkv_bias=bias)
        x = torch.randn(2, 6, 32)
        found = []
        for kind in (Attention, ShortAttention):
            layer.__class__ = kind
            layer.zero_grad()
            layer(x).square().sum().backward()
            found.append([weight.grad.clone() for weight in layer.parameters()])
        for own, timms in zip(*reversed(found), strict=True):
            torch.testing.assert_close(own, timms, rtol=1e-4, atol=1e-4)


def compare_compiled() -> None:
    """Autograd finds the backward pass, and the graph has no break."""
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for length, function in product((5, 70), (short_attention.short_attention, compiled)):
        qkv, grad = inputs(2, length, 3, 16)
        given, bias = qkv.clone().requires_grad_(), torch.zeros(144, requires_grad=True)
        mixed = function(given, bias, 3)
        mixed.backward(grad)
        compare(mixed.detach(), given.grad, bias.grad, qkv, grad, 3)
        without = qkv.clone().requires_grad_()
        function(without, None, 3).backward(grad)
        assert torch.equal(without.grad, given.grad)


def whole(qkv: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    return short_attention.short_attention(1 * qkv, bias, num_heads)


def inputs(batch: int, length: int, num_heads: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    qkv = 2 * torch.randn(batch, length, 3 * num_heads * width, generator=generator)
    return qkv, torch.randn(batch, length, num_heads * width, generator=generator)


def compare(mixed: Tensor, grad_qkv: Tensor, grad_bias: Tensor, qkv: Tensor, grad: Tensor, num_heads: int) -> None:
    given = qkv.double().requires_grad_()
    expected = F.scaled_dot_product_attention(*given.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4))
    expected = expected.transpose(1, 2).flatten(2)
    expected.backward(grad.double())
    for ours, theirs in ((mixed, expected), (grad_qkv, given.grad), (grad_bias, given.grad.sum((0, 1)))):
        assert (ours - theirs).norm() <= 3e-6 * theirs.norm()


@pytest.mark.long
def test_outputs_and_gradients_are_pytorchs(monkeypatch):
    interpret(compare_all, monkeypatch)


def test_kernel_is_for_few_tokens_in_half_precision_on_a_gpu():
    assert has_kernel("cuda", HALF, LONGEST, 64)
    assert has_kernel("cuda", torch.float16, 1, 16)
    assert not has_kernel("cpu", HALF, 50, 64)
    assert not has_kernel("cuda", torch.float32, 50, 64)
    assert not has_kernel("cuda", HALF, LONGEST + 1, 64)
    assert not any(has_kernel("cuda", HALF, 50, width) for width in (8, 24, 48, 80, 128))


def calls(monkeypatch, layer: Attention, **settings) -> int:
    """How often the kernel is used, on a machine that has one; the output is timm's in either case."""
    count = 0

    def stand_in(qkv: Tensor, bias: Tensor, num_heads: int) -> Tensor:
        nonlocal count
        count += 1
        mixed = F.scaled_dot_product_attention(*qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4))
        return mixed.transpose(1, 2).flatten(2)

    torch.manual_seed(0)
    x = torch.randn(2, 6, 32, dtype=layer.proj.weight.dtype)
    expected = layer(x, **settings)
    layer.__class__ = ShortAttention
    assert torch.equal(layer(x, **settings), expected)
    with monkeypatch.context() as patch:
        patch.setattr(short_attention, "has_kernel", lambda *_: True)
        patch.setattr(short_attention, "short_attention", stand_in)
        assert torch.equal(layer(x, **settings), expected)
    return count


@pytest.mark.parametrize(
    ("kind", "settings", "used"),
    [
        ({}, {}, 1),
        ({"attn_drop": 0.5}, {}, 1),  # of no consequence in evaluation
        ({"scale_norm": True, "norm_layer": nn.LayerNorm}, {}, 1),
        ({}, {"is_causal": True}, 0),
        ({}, {"attn_mask": torch.eye(6, dtype=torch.bool)}, 0),
        ({"qk_norm": True, "norm_layer": nn.LayerNorm}, {}, 0),
        ({"gated": True}, {}, 0),
    ],
)
def test_masks_norms_and_gates_are_not_forgotten(monkeypatch, kind, settings, used):
    assert calls(monkeypatch, Attention(32, 2, **kind).eval(), **settings) == used


def test_dropped_scores_are_dropped():
    layer = Attention(32, 2, attn_drop=0.5)
    layer.__class__ = ShortAttention
    x = torch.randn(2, 6, 32)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
