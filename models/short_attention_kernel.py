"""Attention over one short sequence per program: Triton kernels.

Kernels for long sequences add the gradients of queries or of keys up between programs, or in passes of their own. Up to LONGEST
tokens one program has all queries and keys of a head, and writes the three gradients to where queries, keys and values were. Up
to ONE_TILE, nothing is kept for it: queries and keys give the weights again. Beyond, it goes over tiles twice, for the queries'
gradients and for those of keys and values: more products than all at once, but none of them waits for a transposed matrix.

The gradients' sum over all rows, which is that of the bias, is taken tile by tile, where they are still in registers.

Shapes: B pictures, N tokens, T tiles of them, H heads, d the width of one, D = H d, E = 3 D: queries, keys and values side by
side.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ONE_TILE = 64  # tokens
LOG2_E = tl.constexpr(1.4426950408889634)


class Launch(NamedTuple):
    """How a kernel is started."""

    warps: int
    registers: int | None = None  # a thread's, at most, so that one program more fits; None for what the compiler takes
    stages: int = 2


def forward_launch(num_tokens: int, head_width: int) -> Launch:
    if num_tokens <= ONE_TILE:
        return Launch(padded(num_tokens) // 16)
    return Launch(4, 168 if head_width <= 32 else None)  # three programs in the 65,536 of a multiprocessor


def backward_launch(num_tokens: int, head_width: int) -> Launch:
    if num_tokens <= ONE_TILE:
        return Launch(padded(num_tokens) // 16)
    return Launch(4, 168, 1 if head_width > 32 else 2)


def padded(num_tokens: int) -> int:
    """Rows of a tile: `tl.dot` multiplies powers of two from 16."""
    return max(16, triton.next_power_of_2(num_tokens))


def attend(qkv_BNE: Tensor, num_heads: int, launch: Launch | None = None) -> tuple[Tensor, Tensor]:
    """(attention (B, N, D), the logarithms that `log_total_shape` tells of)."""
    B, N, E = qkv_BNE.shape
    head_width = E // (3 * num_heads)
    mixed_BND = qkv_BNE.new_empty(B, N, E // 3)
    log_total = qkv_BNE.new_empty(log_total_shape(B, num_heads, N), dtype=torch.float32)
    if B:
        _attend[(B * num_heads,)](
            qkv_BNE, mixed_BND, log_total, num_heads, N, head_width, padded(N), min(ONE_TILE, padded(N)),
            log_total.numel() > 0, **_options(launch or forward_launch(N, head_width)),
        )  # fmt: skip
    return mixed_BND, log_total


def attend_backward(
    qkv_BNE: Tensor, mixed_BND: Tensor, log_total: Tensor, grad_BND: Tensor, num_heads: int, launch: Launch | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of queries, keys and values (B, N, E) from that of what `attend` gave, and its sum (E,) in float32."""
    B, N, E = qkv_BNE.shape
    head_width = E // (3 * num_heads)
    options = _options(launch or backward_launch(N, head_width))
    grad_BNE = torch.empty_like(qkv_BNE)
    sum_BTE = qkv_BNE.new_empty(B, triton.cdiv(N, ONE_TILE), E, dtype=torch.float32)
    if B and N <= ONE_TILE:
        _attend_backward[(B * num_heads,)](
            qkv_BNE, grad_BND, grad_BNE, sum_BTE, num_heads, N, head_width, padded(N), **options
        )  # fmt: skip
    elif B:
        mean_BHN = torch.empty_like(log_total)
        _attend_backward_tiled[(B * num_heads,)](
            qkv_BNE, mixed_BND, log_total, grad_BND, mean_BHN, grad_BNE, sum_BTE, num_heads, N, head_width, ONE_TILE,
            padded(N % ONE_TILE), **options,
        )  # fmt: skip
    return grad_BNE, sum_BTE.sum((0, 1))


def log_total_shape(batch: int, num_heads: int, num_tokens: int) -> tuple[int, ...]:
    """Of the sum of each query's exponentials, kept as a logarithm to base 2; the backward pass of one tile needs none."""
    return (batch, num_heads, num_tokens) if num_tokens > ONE_TILE else (0,)


def _options(how: Launch) -> dict[str, int]:
    options = {"num_warps": how.warps, "num_stages": how.stages}
    return options if how.registers is None else {**options, "maxnreg": how.registers}


@triton.jit
def _attend(
    qkv_at, mixed_at, log_total_at, H: tl.constexpr, N: tl.constexpr, d: tl.constexpr,
    keys: tl.constexpr, tile: tl.constexpr, keeps_total: tl.constexpr,
):  # fmt: skip
    picture, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    D: tl.constexpr = H * d
    E: tl.constexpr = 3 * D
    qkv_at += picture * (N * E) + head * d
    mixed_at += picture * (N * D) + head * d
    key = _rows(qkv_at + D, 0, keys, E, N, d)
    value = _rows(qkv_at + 2 * D, 0, keys, E, N, d)
    per_nat: tl.constexpr = d**-0.5 * LOG2_E
    for first in range(0, N, tile):
        query = _rows(qkv_at, first, tile, E, N, d)
        score = tl.dot(query, tl.trans(key), input_precision="ieee")
        if keys > N:
            score = tl.where(tl.arange(0, keys)[None, :] < N, score, float("-inf"))
        highest = tl.max(score, 1)[:, None] * per_nat
        exp = tl.exp2(score * per_nat - highest)
        total = tl.sum(exp, 1)[:, None]
        mixed = tl.dot(exp.to(value.dtype), value, input_precision="ieee") * (1.0 / total)
        _write(mixed_at, mixed, first, tile, D, N, d)
        if keeps_total:
            _write(log_total_at + tl.program_id(0).to(tl.int64) * N, highest + tl.log2(total), first, tile, 1, N, 1)


@triton.jit
def _attend_backward(
    qkv_at, grad_mixed_at, grad_at, sum_at, H: tl.constexpr, N: tl.constexpr, d: tl.constexpr, tile: tl.constexpr
):  # fmt: skip
    picture, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    D: tl.constexpr = H * d
    E: tl.constexpr = 3 * D
    qkv_at += picture * (N * E) + head * d
    grad_at += picture * (N * E) + head * d
    sum_at += picture * E + head * d + tl.arange(0, d)
    key = _rows(qkv_at + D, 0, tile, E, N, d)
    value = _rows(qkv_at + 2 * D, 0, tile, E, N, d)
    query = _rows(qkv_at, 0, tile, E, N, d)
    grad_mixed = _rows(grad_mixed_at + picture * (N * D) + head * d, 0, tile, D, N, d)
    per_nat: tl.constexpr = d**-0.5 * LOG2_E
    score = tl.dot(query, tl.trans(key), input_precision="ieee")
    if tile > N:
        score = tl.where(tl.arange(0, tile)[None, :] < N, score, float("-inf"))
    exp = tl.exp2(score * per_nat - tl.max(score, 1)[:, None] * per_nat)
    weight = exp * (1.0 / tl.sum(exp, 1)[:, None])
    # no gradient of a row behind N is anything but zero: its weight is, or the gradient that comes to it
    grad_value = tl.dot(tl.trans(weight.to(key.dtype)), grad_mixed, input_precision="ieee")
    grad_weight = tl.dot(grad_mixed, tl.trans(value), input_precision="ieee")
    mean = tl.sum(weight * grad_weight, 1)[:, None]
    grad_score = (weight * (grad_weight - mean)).to(key.dtype)
    _write(grad_at + 2 * D, grad_value, 0, tile, E, N, d)
    tl.store(sum_at + 2 * D, tl.sum(grad_value, 0))
    grad_query = tl.dot(grad_score, key, input_precision="ieee") * d**-0.5
    _write(grad_at, grad_query, 0, tile, E, N, d)
    tl.store(sum_at, tl.sum(grad_query, 0))
    grad_key = tl.dot(tl.trans(grad_score), query, input_precision="ieee") * d**-0.5
    _write(grad_at + D, grad_key, 0, tile, E, N, d)
    tl.store(sum_at + D, tl.sum(grad_key, 0))


@triton.jit
def _attend_backward_tiled(
    qkv_at, mixed_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at,
    H: tl.constexpr, N: tl.constexpr, d: tl.constexpr, tile: tl.constexpr, rest: tl.constexpr,
):  # fmt: skip
    picture, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    D: tl.constexpr = H * d
    qkv_at += picture * (N * 3 * D) + head * d
    grad_at += picture * (N * 3 * D) + head * d
    mixed_at += picture * (N * D) + head * d
    grad_mixed_at += picture * (N * D) + head * d
    log_total_at += tl.program_id(0).to(tl.int64) * N
    mean_at += tl.program_id(0).to(tl.int64) * N
    tiles: tl.constexpr = (N + tile - 1) // tile
    sum_at += picture * (tiles * 3 * D) + head * d + tl.arange(0, d)
    whole: tl.constexpr = N // tile * tile
    for first in range(0, whole, tile):
        _of_queries(qkv_at, mixed_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at, first, tile, D, N, d, tile, rest)
    if whole < N:
        _of_queries(qkv_at, mixed_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at, whole, rest, D, N, d, tile, rest)
    tl.debug_barrier()  # other threads read the means
    for first in range(0, whole, tile):
        _of_keys(qkv_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at, first, tile, D, N, d, tile, rest)
    if whole < N:
        _of_keys(qkv_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at, whole, rest, D, N, d, tile, rest)


@triton.jit
def _of_queries(
    qkv_at, mixed_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at, first, rows: tl.constexpr,
    D: tl.constexpr, N: tl.constexpr, d: tl.constexpr, tile: tl.constexpr, rest: tl.constexpr,
):  # fmt: skip
    """The gradient of some queries and its sum, and the means over keys that those of the keys need."""
    query = _rows(qkv_at, first, rows, 3 * D, N, d)
    grad_mixed = _rows(grad_mixed_at, first, rows, D, N, d)
    mixed = _rows(mixed_at, first, rows, D, N, d)
    log_total = _rows(log_total_at, first, rows, 1, N, 1)
    mean = tl.sum(grad_mixed.to(tl.float32) * mixed.to(tl.float32), 1)[:, None]
    _write(mean_at, mean, first, rows, 1, N, 1)
    grad_query = tl.zeros([rows, d], tl.float32)
    for other in tl.static_range(0, N, tile):  # a key behind N is zero, so whatever its weight, it adds nothing
        key = _tile(qkv_at + D, other, 3 * D, N, d, tile, rest)
        value = _tile(qkv_at + 2 * D, other, 3 * D, N, d, tile, rest)
        weight = tl.exp2(tl.dot(query, tl.trans(key), input_precision="ieee") * (d**-0.5 * LOG2_E) - log_total)
        grad_weight = tl.dot(grad_mixed, tl.trans(value), input_precision="ieee")
        grad_score = (weight * (grad_weight - mean)).to(key.dtype)
        grad_query = tl.dot(grad_score, key, grad_query, input_precision="ieee")
    grad_query *= d**-0.5
    _write(grad_at, grad_query, first, rows, 3 * D, N, d)
    tl.store(sum_at + first // tile * (3 * D), tl.sum(grad_query, 0))  # zero behind N, where no gradient comes to


@triton.jit
def _of_keys(
    qkv_at, log_total_at, grad_mixed_at, mean_at, grad_at, sum_at, first, rows: tl.constexpr,
    D: tl.constexpr, N: tl.constexpr, d: tl.constexpr, tile: tl.constexpr, rest: tl.constexpr,
):  # fmt: skip
    """The gradients of some keys and their values, and their sums.

    Scores have a row per key, as products with their gradients want them.
    """
    key = _rows(qkv_at + D, first, rows, 3 * D, N, d)
    value = _rows(qkv_at + 2 * D, first, rows, 3 * D, N, d)
    grad_key = tl.zeros([rows, d], tl.float32)
    grad_value = tl.zeros([rows, d], tl.float32)
    for other in tl.static_range(0, N, tile):  # no gradient comes to queries behind N
        query = _tile(qkv_at, other, 3 * D, N, d, tile, rest)
        grad_mixed = _tile(grad_mixed_at, other, D, N, d, tile, rest)
        log_total = tl.trans(_tile(log_total_at, other, 1, N, 1, tile, rest))
        mean = tl.trans(_tile(mean_at, other, 1, N, 1, tile, rest))
        weight = tl.exp2(tl.dot(key, tl.trans(query), input_precision="ieee") * (d**-0.5 * LOG2_E) - log_total)
        grad_value = tl.dot(weight.to(key.dtype), grad_mixed, grad_value, input_precision="ieee")
        grad_weight = tl.dot(value, tl.trans(grad_mixed), input_precision="ieee")
        grad_score = (weight * (grad_weight - mean)).to(key.dtype)
        grad_key = tl.dot(grad_score, query, grad_key, input_precision="ieee")
    grad_key *= d**-0.5
    _write(grad_at + D, grad_key, first, rows, 3 * D, N, d)
    _write(grad_at + 2 * D, grad_value, first, rows, 3 * D, N, d)
    exists = first + tl.arange(0, rows)[:, None] < N
    sum_at += first // tile * (3 * D)
    tl.store(sum_at + D, tl.sum(tl.where(exists, grad_key, 0.0), 0))
    tl.store(sum_at + 2 * D, tl.sum(tl.where(exists, grad_value, 0.0), 0))


@triton.jit
def _rows(at, first, rows: tl.constexpr, stride: tl.constexpr, N: tl.constexpr, width: tl.constexpr):
    row = first + tl.arange(0, rows)[:, None]
    return tl.load(at + row * stride + tl.arange(0, width)[None, :], mask=row < N, other=0.0)


@triton.jit
def _tile(
    at, first: tl.constexpr, stride: tl.constexpr, N: tl.constexpr, width: tl.constexpr, tile: tl.constexpr, rest: tl.constexpr
):
    """The rows of a tile, of which the last may be a smaller one."""
    rows: tl.constexpr = tile if first + tile <= N else rest
    return _rows(at, first, rows, stride, N, width)


@triton.jit
def _write(at, x, first, rows: tl.constexpr, stride: tl.constexpr, N: tl.constexpr, width: tl.constexpr):
    row = first + tl.arange(0, rows)[:, None]
    tl.store(at + row * stride + tl.arange(0, width)[None, :], x.to(at.dtype.element_ty), mask=row < N)
