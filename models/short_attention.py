"""Attention over few tokens in timm's models: one Triton kernel each way, on queries, keys and values as one matrix gives them.

A general kernel spends a vision transformer's 50 or 197 tokens badly: it is made for many tiles of keys where here there is
one, its backward pass is three kernels, and autograd then stacks three gradients into one. `short_attention_kernel` has the
reasons it can do better. Registered with PyTorch as operations, the two run inside torch.compile without a break. Triton comes
with PyTorch for CUDA on Linux only, so it is imported where it is needed.

Shapes: B pictures, N tokens, H heads, d the width of one, D = H d, E = 3 D: queries, keys and values side by side.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor

from models.operations import operation

LONGEST = 256  # tokens; beyond, the scores of all keys do not fit into registers
WIDTHS = (16, 32, 64)  # of a head


class ShortAttention(Attention):
    """timm's attention layer; what the kernel does not know, or is rarely asked for, goes timm's own way."""

    kernel = "short"

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        dropped = self.training and self.attn_drop.p
        normed = not isinstance(self.q_norm, torch.nn.Identity)
        plain = attn_mask is None and not (is_causal or dropped or normed or self.gate is not None)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if not (plain and has_kernel(device, dtype, x.shape[1], self.head_dim)):
            return super().forward(x, attn_mask, is_causal)
        weight, bias = self.qkv.weight, self.qkv.bias
        qkv = F.linear(x, weight, None if bias is None else bias.detach())  # whose gradient the kernel sums
        return self.proj_drop(self.proj(self.norm(short_attention(qkv, bias, self.num_heads))))


def has_kernel(device: str, dtype: torch.dtype, num_tokens: int, head_width: int) -> bool:
    """Whether the kernel takes queries, keys and values like these."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device == "cuda" and half and num_tokens <= LONGEST and head_width in WIDTHS


def short_attention(qkv_BNE: Tensor, bias_E: Tensor | None, num_heads: int) -> Tensor:
    """softmax(Q Kᵀ / √d) V of every head, (B, N, D).

    Args:
        bias_E: that was already added to `qkv_BNE`, without its gradient: the sum over rows comes from here.
    """
    return attend(qkv_BNE, bias_E, num_heads)[0]


@operation
def attend(qkv_BNE: Tensor, bias_E: Tensor | None, num_heads: int) -> tuple[Tensor, Tensor]:
    """(attention (B, N, D), what its backward pass wants to know of it besides)."""
    from models.short_attention_kernel import attend

    return attend(qkv_BNE.contiguous(), num_heads)


@operation
def attend_backward(
    qkv_BNE: Tensor, mixed_BND: Tensor, log_total: Tensor, grad_BND: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """The gradient (B, N, E) of queries, keys and values from that of their attention, and its sum (E,) in float32."""
    from models.short_attention_kernel import attend_backward

    return attend_backward(qkv_BNE.contiguous(), mixed_BND, log_total, grad_BND.contiguous(), num_heads)


@torch.library.register_fake(attend)
def _(qkv_BNE: Tensor, bias_E: Tensor | None, num_heads: int) -> tuple[Tensor, Tensor]:
    from models.short_attention_kernel import log_total_shape

    B, N, E = qkv_BNE.shape
    return qkv_BNE.new_empty(B, N, E // 3), qkv_BNE.new_empty(log_total_shape(B, num_heads, N), dtype=torch.float32)


@torch.library.register_fake(attend_backward)
def _(qkv_BNE: Tensor, mixed_BND: Tensor, log_total: Tensor, grad_BND: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    grad_qkv_BNE = torch.empty_like(qkv_BNE, memory_format=torch.contiguous_format)
    return grad_qkv_BNE, qkv_BNE.new_empty(qkv_BNE.shape[2], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None, int], output: tuple[Tensor, Tensor]) -> None:
    qkv_BNE, bias_E, ctx.num_heads = inputs
    ctx.bias_dtype = None if bias_E is None else bias_E.dtype
    ctx.save_for_backward(qkv_BNE, *output)


def _backward(ctx: Any, grad_BND: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
    grad_qkv_BNE, sum_E = attend_backward(*ctx.saved_tensors, grad_BND, ctx.num_heads)
    return grad_qkv_BNE, None if ctx.bias_dtype is None else sum_E.to(ctx.bias_dtype), None


torch.library.register_autograd(attend, _backward, setup_context=_keep)
