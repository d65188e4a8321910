"""Attention over one short sequence per program: Triton kernels.

Kernels for long sequences walk over tiles of keys, keep a row's statistics for the backward pass, and add the gradients of
queries up between programs or in a pass of their own. Up to LONGEST tokens all keys of a head fit into one tile: the softmax
sees its whole row, the backward pass computes it again from queries and keys, and one program has all of a head's gradients,
which it writes to where queries, keys and values were.

Shapes: B pictures, N tokens, H heads, d the width of one, D = H d, E = 3 D: queries, keys and values side by side.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)


class Launch(NamedTuple):
    """How a kernel is started."""

    queries: int  # in a tile
    tiles: int  # of queries, one after the other in one program
    turned: bool  # scores have a row per key: tensor cores want 64 rows, but take any number of columns
    warps: int
    registers: int | None = None  # a thread's, at most, so that one program more fits; None for what the compiler takes
    stages: int = 2


def forward_launch(num_tokens: int, head_width: int) -> Launch:
    keys = padded(num_tokens)
    if keys <= 64:
        return Launch(keys, 1, False, keys // 16)
    registers = 168 if head_width <= 32 else None  # three programs in the 65,536 of a multiprocessor, whose memory takes them
    return Launch(64, triton.cdiv(num_tokens, 64), False, 4, registers)


def backward_launch(num_tokens: int, head_width: int) -> Launch:
    keys = padded(num_tokens)
    if keys <= 64:
        return Launch(keys, 1, False, keys // 16)
    wide = head_width > 32  # gradients of keys and values stay in registers
    return Launch(16, triton.cdiv(num_tokens, 16), True, keys // 16 if wide else keys // 32, 128)


def padded(num_tokens: int) -> int:
    """Keys in the tile: `tl.dot` multiplies powers of two from 16."""
    return max(16, triton.next_power_of_2(num_tokens))


def attend(qkv_BNE: Tensor, num_heads: int, launch: Launch | None = None) -> Tensor:
    """(B, N, E) -> (B, N, D)."""
    B, N, E = qkv_BNE.shape
    head_width = E // (3 * num_heads)
    how = launch or forward_launch(N, head_width)
    mixed_BND = qkv_BNE.new_empty(B, N, E // 3)
    if B:
        _attend[(B * num_heads, triton.cdiv(N, how.queries * how.tiles))](
            qkv_BNE, mixed_BND, num_heads, N, head_width, padded(N), how.queries, how.tiles, how.turned, **_options(how)
        )
    return mixed_BND


def attend_backward(qkv_BNE: Tensor, grad_BND: Tensor, num_heads: int, launch: Launch | None = None) -> Tensor:
    """The gradient of queries, keys and values (B, N, E) from that of what `attend` gave."""
    B, N, E = qkv_BNE.shape
    head_width = E // (3 * num_heads)
    how = launch or backward_launch(N, head_width)
    assert how.queries * how.tiles >= N
    grad_BNE = torch.empty_like(qkv_BNE)
    if B:
        _attend_backward[(B * num_heads,)](
            qkv_BNE, grad_BND, grad_BNE, num_heads, N, head_width, padded(N), how.queries, how.tiles, how.turned,
            **_options(how),
        )  # fmt: skip
    return grad_BNE


def _options(how: Launch) -> dict[str, int]:
    options = {"num_warps": how.warps, "num_stages": how.stages}
    return options if how.registers is None else {**options, "maxnreg": how.registers}


@triton.jit
def _attend(
    qkv_at, mixed_at, H: tl.constexpr, N: tl.constexpr, d: tl.constexpr,
    keys: tl.constexpr, queries: tl.constexpr, tiles: tl.constexpr, turned: tl.constexpr,
):  # fmt: skip
    picture, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    D: tl.constexpr = H * d
    E: tl.constexpr = 3 * D
    qkv_at += picture * (N * E) + head * d
    mixed_at += picture * (N * D) + head * d
    column = tl.arange(0, d)[None, :]
    key_row = tl.arange(0, keys)[:, None]
    key = tl.load(qkv_at + D + key_row * E + column, mask=key_row < N, other=0.0)
    value = tl.load(qkv_at + 2 * D + key_row * E + column, mask=key_row < N, other=0.0)
    for tile in range(tiles):
        row = (tl.program_id(1) * tiles + tile) * queries + tl.arange(0, queries)[:, None]
        query = tl.load(qkv_at + row * E + column, mask=row < N, other=0.0)
        exp, share = _exp(_product(query, key, turned), N, d, keys, turned)
        mixed = tl.dot(_by_query(exp.to(value.dtype), turned), value, input_precision="ieee") * _by_query(share, turned)
        tl.store(mixed_at + row * D + column, mixed.to(value.dtype), mask=row < N)


@triton.jit
def _attend_backward(
    qkv_at, grad_mixed_at, grad_at, H: tl.constexpr, N: tl.constexpr, d: tl.constexpr,
    keys: tl.constexpr, queries: tl.constexpr, tiles: tl.constexpr, turned: tl.constexpr,
):  # fmt: skip
    picture, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    D: tl.constexpr = H * d
    E: tl.constexpr = 3 * D
    scale: tl.constexpr = d**-0.5
    qkv_at += picture * (N * E) + head * d
    grad_at += picture * (N * E) + head * d
    grad_mixed_at += picture * (N * D) + head * d
    column = tl.arange(0, d)[None, :]
    key_row = tl.arange(0, keys)[:, None]
    key = tl.load(qkv_at + D + key_row * E + column, mask=key_row < N, other=0.0)
    value = tl.load(qkv_at + 2 * D + key_row * E + column, mask=key_row < N, other=0.0)
    grad_key = tl.zeros([keys, d], tl.float32)
    grad_value = tl.zeros([keys, d], tl.float32)
    for tile in range(tiles):  # no gradient comes to rows behind N, so none leaves them
        row = tile * queries + tl.arange(0, queries)[:, None]
        query = tl.load(qkv_at + row * E + column, mask=row < N, other=0.0)
        grad_mixed = tl.load(grad_mixed_at + row * D + column, mask=row < N, other=0.0)
        exp, share = _exp(_product(query, key, turned), N, d, keys, turned)
        weight = exp * share
        grad_value = tl.dot(_by_key(weight.to(key.dtype), turned), grad_mixed, grad_value, input_precision="ieee")
        grad_weight = _product(grad_mixed, value, turned)
        mean = tl.sum(weight * grad_weight, 0 if turned else 1, keep_dims=True)
        grad_score = (weight * (grad_weight - mean)).to(key.dtype)
        grad_query = tl.dot(_by_query(grad_score, turned), key, input_precision="ieee") * scale
        tl.store(grad_at + row * E + column, grad_query.to(key.dtype), mask=row < N)
        grad_key = tl.dot(_by_key(grad_score, turned), query, grad_key, input_precision="ieee")
    tl.store(grad_at + D + key_row * E + column, (grad_key * scale).to(key.dtype), mask=key_row < N)
    tl.store(grad_at + 2 * D + key_row * E + column, grad_value.to(key.dtype), mask=key_row < N)


@triton.jit
def _product(of_queries, of_keys, turned: tl.constexpr):
    if turned:
        return tl.dot(of_keys, tl.trans(of_queries), input_precision="ieee")
    else:
        return tl.dot(of_queries, tl.trans(of_keys), input_precision="ieee")


@triton.jit
def _by_query(x, turned: tl.constexpr):
    if turned:
        return tl.trans(x)
    else:
        return x


@triton.jit
def _by_key(x, turned: tl.constexpr):
    return _by_query(x, not turned)


@triton.jit
def _exp(score, N: tl.constexpr, d: tl.constexpr, keys: tl.constexpr, turned: tl.constexpr):
    """(exponentials, by what to multiply them): the softmax over the keys, of which those from N on only fill the tile."""
    axis: tl.constexpr = 0 if turned else 1
    if keys > N:
        score = tl.where(tl.expand_dims(tl.arange(0, keys) < N, 1 - axis), score, float("-inf"))
    per_nat: tl.constexpr = d**-0.5 * LOG2_E
    exp = tl.exp2(score * per_nat - tl.max(score, axis, keep_dims=True) * per_nat)
    return exp, 1.0 / tl.sum(exp, axis, keep_dims=True)
