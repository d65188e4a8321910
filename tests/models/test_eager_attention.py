"""Attention with a backward pass of its own is timm's."""

import copy

import pytest
import torch
from timm.layers import Attention
from torch import nn

from models.eager_attention import EagerAttention

HALF = (torch.bfloat16, torch.float16)


def made_of(layer: Attention) -> EagerAttention:
    own = copy.deepcopy(layer)
    own.__class__ = EagerAttention
    return own


def way(layer: Attention, x: torch.Tensor, dtype: torch.dtype, **settings) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of the weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype if dtype in HALF else None, enabled=dtype in HALF):
        out = layer(x, **settings)
    (out * torch.linspace(-1, 1, out.shape[-1], dtype=out.dtype)).sum().backward()
    return [out, x.grad, *(weight.grad for weight in layer.parameters())]


@pytest.mark.parametrize(
    ("dtype", "apart"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-3)]
)
@pytest.mark.parametrize(
    ("batch", "length", "num_heads", "width"), [(3, 17, 3, 48), (2, 65, 6, 192), (1, 1, 1, 8), (4, 5, 1, 12)]
)
def test_outputs_and_gradients_are_timms(dtype, apart, batch, length, num_heads, width):
    torch.manual_seed(0)
    layer = Attention(width, num_heads, qkv_bias=True, scale_norm=True, norm_layer=nn.LayerNorm)
    layer.fused_attn = False
    layer = layer if dtype in HALF else layer.to(dtype)
    x = torch.randn(batch, length, width, dtype=layer.proj.weight.dtype)
    for ours, theirs in zip(way(made_of(layer), x, dtype), way(layer, x, dtype), strict=True):
        assert (ours - theirs).norm() <= apart * theirs.norm()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ({}, {"is_causal": True}),
        ({}, {"attn_mask": torch.eye(6, dtype=torch.bool)}),
        ({"qk_norm": True, "norm_layer": nn.LayerNorm}, {}),
        ({"gated": True}, {}),
    ],
)
def test_masks_norms_and_gates_are_not_forgotten(kind, settings):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 6, 32), Attention(32, 4, **kind)
    layer.fused_attn = False
    for ours, theirs in zip(way(made_of(layer), x, x.dtype, **settings), way(layer, x, x.dtype, **settings), strict=True):
        assert torch.equal(ours, theirs)


def test_dropped_scores_are_dropped():
    torch.manual_seed(0)
    layer = made_of(Attention(32, 4, attn_drop=0.5))
    layer.fused_attn = False
    x = torch.randn(2, 6, 32)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
