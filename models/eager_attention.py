"""Plain attention in timm's models: the same products and roundings, with a backward pass that copies less.

Written as views and matrix products, autograd copies queries, keys and values one by one and puts their gradients together from
pieces, twice. Here each way is one copy.

Shapes: B pictures, N tokens, H heads, d the width of one.
"""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor
from torch.autograd.function import once_differentiable


class EagerAttention(Attention):
    """timm's attention layer; what it is rarely asked for (masks, dropout of scores, norms of queries) goes timm's own way."""

    kernel = "eager"

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        dropped = self.training and self.attn_drop.p
        normed = not isinstance(self.q_norm, torch.nn.Identity)
        if attn_mask is not None or is_causal or dropped or normed or self.gate is not None:
            return super().forward(x, attn_mask, is_causal)
        mixed = _Attend.apply(self.qkv(x), self.num_heads, self.scale)
        return self.proj_drop(self.proj(self.norm(mixed)))


class _Attend(torch.autograd.Function):
    """(B, N, 3 H d), H, scale -> (B, N, H d)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int, scale: float) -> Tensor:
        by_head = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format)
        query, key, value = rows = by_head.flatten(1, 2)  # (3, B H, N, d)
        query.mul_(scale)
        # not Tensor.softmax, which autocast makes float32 on a GPU, while the backward pass runs without it
        weights = torch.ops.aten._softmax(torch.bmm(query, key.mT), -1, False)
        ctx.save_for_backward(rows, weights)
        ctx.scale, ctx.shape = scale, by_head.shape
        return torch.bmm(weights, value).view(by_head.shape[1:]).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, weights = ctx.saved_tensors
        query, key, value = rows
        grad_rows = torch.empty_like(rows)
        grad = grad.unflatten(-1, (ctx.shape[2], -1)).transpose(1, 2).reshape(value.shape)
        torch.bmm(weights.mT, grad, out=grad_rows[2])
        grad_scores = torch.ops.aten._softmax_backward_data(torch.bmm(grad, value.mT), weights, -1, weights.dtype)
        torch.bmm(grad_scores, key, out=grad_rows[0])
        grad_rows[0].mul_(ctx.scale)
        torch.bmm(grad_scores.mT, query, out=grad_rows[1])
        return grad_rows.view(ctx.shape).permute(1, 3, 0, 2, 4).flatten(2), None, None
