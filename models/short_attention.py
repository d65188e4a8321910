"""Attention over few tokens in timm's models: one Triton kernel each way, on queries, keys and values as one matrix gives them.

A general kernel spends a vision transformer's 50 or 197 tokens badly: it is made for many tiles of keys where here there is
one, its backward pass is three kernels, and autograd then stacks three gradients into one. `short_attention_kernel` has the
reasons it can do better. Registered with PyTorch as operations, the two run inside torch.compile without a break. Triton comes
with PyTorch for CUDA on Linux only, so it is imported where it is needed.

Shapes: B pictures, N tokens, H heads, d the width of one, D = H d, E = 3 D: queries, keys and values side by side.
"""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor

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
        return self.proj_drop(self.proj(self.norm(short_attention(self.qkv(x), self.num_heads))))


def has_kernel(device: str, dtype: torch.dtype, num_tokens: int, head_width: int) -> bool:
    """Whether the kernel takes queries, keys and values like these."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device == "cuda" and half and num_tokens <= LONGEST and head_width in WIDTHS


def short_attention(qkv_BNE: Tensor, num_heads: int) -> Tensor:
    """softmax(Q Kᵀ / √d) V of every head, (B, N, D)."""
    return attend(qkv_BNE, num_heads)[0]


@torch.library.custom_op("headstart::attend", mutates_args=())
def attend(qkv_BNE: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """(attention (B, N, D), what its backward pass wants to know of it besides)."""
    from models.short_attention_kernel import attend

    return attend(qkv_BNE.contiguous(), num_heads)


@torch.library.custom_op("headstart::attend_backward", mutates_args=())
def attend_backward(qkv_BNE: Tensor, mixed_BND: Tensor, log_total: Tensor, grad_BND: Tensor, num_heads: int) -> Tensor:
    """The gradient (B, N, E) of queries, keys and values, from that of their attention."""
    from models.short_attention_kernel import attend_backward

    return attend_backward(qkv_BNE.contiguous(), mixed_BND, log_total, grad_BND.contiguous(), num_heads)


@attend.register_fake
def _(qkv_BNE: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    from models.short_attention_kernel import log_total_shape

    B, N, E = qkv_BNE.shape
    return qkv_BNE.new_empty(B, N, E // 3), qkv_BNE.new_empty(log_total_shape(B, num_heads, N), dtype=torch.float32)


@attend_backward.register_fake
def _(qkv_BNE: Tensor, mixed_BND: Tensor, log_total: Tensor, grad_BND: Tensor, num_heads: int) -> Tensor:
    return torch.empty_like(qkv_BNE, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    qkv_BNE, ctx.num_heads = inputs
    ctx.save_for_backward(qkv_BNE, *output)


def _backward(ctx: Any, grad_BND: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return attend_backward(*ctx.saved_tensors, grad_BND, ctx.num_heads), None


attend.register_autograd(_backward, setup_context=_keep)
