"""The softmax of a large vocabulary's logits in two passes over a GPU's memory: a Triton kernel.

PyTorch's own operations read or write such logits a dozen times, in float32 most of it. Here one program has one row: it reads
the row once for maximum and sum together (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm
3) and once more, from the cache, to write the gradient over it.

Shapes: C rows, V vocabulary, W >= V columns, a multiple of what tensor cores like; those behind V are no classes.
A blocks at a time, G groups of a block, L logits of a group, which one thread reads at once.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns: 16 bytes of bf16 for each of a program's threads
BLOCKS = {False: 4, True: 2}  # at a time, without and with bias: as many as leave registers for two programs or three
WARPS = 16  # rather than more programs, whose rows would not stay in an H100's 50 MB of cache from one pass to the next
LOWEST = tl.constexpr(-1e30)  # of no logit; infinity less infinity would be no number
LOG2_E = tl.constexpr(1.4426950408889634)


def softmax_gradient(
    logits_CW: Tensor, bias_V: Tensor | None, target_C: Tensor, num_classes: int, learns: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum of nats, number right, gradient of the nats (C, W)); the gradient takes the place of the logits.

    Ties for the highest logit count as right.

    Args:
        bias_V: added to the logits.
        target_C: class of each row; a negative one adds nothing, and has no gradient.
        num_classes: V.
        learns: whether the gradient is wanted; else the logits stay, and None is given for it.
    """
    nats_C = torch.empty(len(logits_CW), dtype=torch.float32, device=logits_CW.device)
    right_C = torch.empty_like(nats_C)
    bias_W = None
    if bias_V is not None:  # up to the last column, so that threads read it 16 bytes at once
        bias_W = F.pad(bias_V, (0, logits_CW.shape[1] - num_classes))
    if len(logits_CW):
        _softmax_row[(len(logits_CW),)](
            logits_CW, bias_W, target_C, nats_C, right_C, logits_CW.stride(0), num_classes, logits_CW.shape[1],
            has_bias=bias_V is not None, learns=learns, group=16 // logits_CW.element_size(),
            block=BLOCK, blocks=BLOCKS[bias_V is not None], num_warps=WARPS,
        )  # fmt: skip
    return nats_C.sum(), right_C.sum(), logits_CW if learns else None


@triton.jit
def _softmax_row(
    logits_at, bias_at, target_at, nats_at, right_at, stride, num_classes, num_columns,
    has_bias: tl.constexpr, learns: tl.constexpr, group: tl.constexpr, block: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_at += row * stride
    target = tl.load(target_at + row)
    used = target >= 0
    own_class = tl.where(used, target, 0)
    own = tl.load(logits_at + own_class).to(tl.float32)
    if has_bias:
        own += tl.load(bias_at + own_class).to(tl.float32)

    step: tl.constexpr = block * blocks
    kept: tl.constexpr = "evict_last" if learns else "evict_first"
    whole = num_classes // step * step  # what comes after it needs masks
    highest_G = tl.full([block // group], LOWEST, tl.float32)  # of each thread, so that threads need not wait for each other
    total_G = tl.zeros([block // group], tl.float32)
    for first in range(0, whole, step):
        x = _read(logits_at, bias_at, first + tl.arange(0, step), has_bias, kept)
        highest_G, total_G = _add(highest_G, total_G, x, group)
    for first in range(whole, num_classes, block):
        column = first + tl.arange(0, block)
        x = _read_masked(logits_at, bias_at, column, num_classes, num_columns, has_bias, kept)
        highest_G, total_G = _add(highest_G, total_G, x, group)
    highest = tl.max(highest_G, 0)
    total = tl.sum(total_G * tl.exp2((highest_G - highest) * LOG2_E), 0)
    tl.store(nats_at + row, tl.where(used, tl.log(total) + highest - own, 0.0))
    tl.store(right_at + row, tl.where(used & (own == highest), 1.0, 0.0))

    if learns:
        dtype = logits_at.dtype.element_ty
        offset = tl.where(used, tl.log2(total) + highest * LOG2_E, float("inf"))
        # backwards: what was read last is the likeliest to be in the cache
        for first in range(whole, num_columns, block):
            column = first + tl.arange(0, block)
            x = _read_masked(logits_at, bias_at, column, num_classes, num_columns, has_bias, "evict_first")
            gradient = tl.exp2(tl.fma(x, LOG2_E, -offset)).to(dtype)
            tl.store(logits_at + column, gradient, mask=column < num_columns, eviction_policy="evict_first")
        for done in range(step, whole + step, step):
            column = whole - done + tl.arange(0, step)
            x = _read(logits_at, bias_at, column, has_bias, "evict_first")
            gradient = tl.exp2(tl.fma(x, LOG2_E, -offset)).to(dtype)
            tl.store(logits_at + column, gradient, eviction_policy="evict_first")
        tl.debug_barrier()  # another thread may have written this column
        tl.store(logits_at + own_class, (tl.exp2(tl.fma(own, LOG2_E, -offset)) - 1.0).to(dtype), mask=used)


@triton.jit
def _read(logits_at, bias_at, column, has_bias: tl.constexpr, eviction_policy: tl.constexpr):
    x = tl.load(logits_at + column, eviction_policy=eviction_policy).to(tl.float32)
    if has_bias:
        x += tl.load(bias_at + column, eviction_policy="evict_last").to(tl.float32)
    return x


@triton.jit
def _read_masked(logits_at, bias_at, column, num_classes, num_columns, has_bias: tl.constexpr, eviction_policy: tl.constexpr):
    exists = column < num_columns  # num_columns, unlike num_classes, is a multiple of what a thread reads at once
    x = tl.load(logits_at + column, mask=exists, other=0.0, eviction_policy=eviction_policy).to(tl.float32)
    if has_bias:
        x += tl.load(bias_at + column, mask=exists, other=0.0, eviction_policy="evict_last").to(tl.float32)
    return tl.where(column < num_classes, x, float("-inf"))


@triton.jit
def _add(highest_G, total_G, x, group: tl.constexpr):
    """Maximum and sum over what one thread has, with more logits; all of them need but one rescaling of the sum."""
    x_AGL = tl.reshape(x, [x.numel // (highest_G.numel * group), highest_G.numel, group])
    higher_G = tl.maximum(highest_G, tl.max(tl.max(x_AGL, 2), 0))
    exp_AGL = tl.exp2(tl.fma(x_AGL, LOG2_E, -(higher_G * LOG2_E)[None, :, None]))
    return higher_G, total_G * tl.exp2((highest_G - higher_G) * LOG2_E) + tl.sum(tl.sum(exp_AGL, 2), 0)
