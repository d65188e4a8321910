"""The softmax of a large vocabulary's logits in two passes over a GPU's memory: a Triton kernel.

PyTorch's own operations read or write such logits a dozen times, in float32 most of it. Here one program has one row: it reads
the row once for maximum and sum together (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm
3) and once more, to write the gradient over it.

Shapes: C rows, V vocabulary, W >= V columns, a multiple of what tensor cores like; those behind V are no classes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192  # columns at a time
LOWEST = tl.constexpr(-1e30)  # of no logit; infinity less infinity would be no number


def softmax_gradient(
    logits_CW: Tensor, bias_V: Tensor | None, target_C: Tensor, num_classes: int, learns: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum of nats, number right, gradient of the nats (C, W)); the gradient takes the place of the logits.

    Args:
        bias_V: added to the logits.
        target_C: class of each row; a negative one adds nothing, and has no gradient.
        num_classes: V.
        learns: whether the gradient is wanted; else the logits stay, and None is given for it.
    """
    nats_C = torch.empty(len(logits_CW), dtype=torch.float32, device=logits_CW.device)
    right_C = torch.empty_like(nats_C)
    if len(logits_CW):
        _row[(len(logits_CW),)](
            logits_CW, bias_V, target_C, nats_C, right_C, logits_CW.stride(0), num_classes, logits_CW.shape[1],
            has_bias=bias_V is not None, learns=learns, block=BLOCK, num_warps=16,
        )  # fmt: skip
    return nats_C.sum(), right_C.sum(), logits_CW if learns else None


@triton.jit
def _row(
    logits_at, bias_at, target_at, nats_at, right_at, stride, num_classes, num_columns,
    has_bias: tl.constexpr, learns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_at += row * stride
    target = tl.load(target_at + row)
    used = target >= 0
    own_class = tl.where(used, target, 0)
    own = tl.load(logits_at + own_class).to(tl.float32)
    if has_bias:
        own += tl.load(bias_at + own_class).to(tl.float32)

    highest_of = tl.full([block], LOWEST, tl.float32)  # of each lane, so that lanes need not wait for each other
    total_of = tl.zeros([block], tl.float32)
    for first in range(0, num_classes, block):
        column = first + tl.arange(0, block)
        x = _read(logits_at, bias_at, column, num_classes, has_bias)
        higher = tl.maximum(highest_of, x)
        total_of = total_of * tl.exp(highest_of - higher) + tl.exp(x - higher)
        highest_of = higher
    highest = tl.max(highest_of, 0)
    total = tl.sum(total_of * tl.exp(highest_of - highest), 0)
    tl.store(nats_at + row, tl.where(used, tl.log(total) + highest - own, 0.0))
    tl.store(right_at + row, tl.where(used & (own == highest), 1.0, 0.0))

    if learns:
        scale = tl.where(used, 1.0 / total, 0.0)
        for first in range(0, num_columns, block):
            column = first + tl.arange(0, block)
            x = _read(logits_at, bias_at, column, num_classes, has_bias)
            gradient = tl.exp(x - highest) * scale - tl.where(column == target, 1.0, 0.0)
            tl.store(logits_at + column, gradient.to(logits_at.dtype.element_ty), mask=column < num_columns)


@triton.jit
def _read(logits_at, bias_at, column, num_classes, has_bias: tl.constexpr):
    is_class = column < num_classes
    x = tl.load(logits_at + column, mask=is_class, other=float("-inf")).to(tl.float32)
    if has_bias:
        x += tl.load(bias_at + column, mask=is_class, other=0.0).to(tl.float32)
    return x
