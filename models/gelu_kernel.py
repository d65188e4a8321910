"""A bias and GELU behind a matrix product, and back: Triton kernels.

A feed-forward layer's hidden vectors are the widest tensor of a transformer, and memory is what their activation should wait
for. What compilers make of it waits for arithmetic instead (tanh and erf are long), and reads the gradient once more to sum the
bias's. Here both exponentials are one, shared by the function and its slope, and the sums are taken on the way.

Shapes: R rows, C columns, S strips of rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, WARPS = 8, 256, 4  # of a tile: two loads of 16 bytes of bf16 for each thread
PROGRAMS = 132 * 8  # that sum a bias's gradient: more would wait for a multiprocessor of an H100, and leave more sums to add up
LOG2_E = tl.constexpr(1.4426950408889634)


def gelu(pre_RC: Tensor, bias_C: Tensor, kind: str) -> Tensor:
    """GELU(pre + bias), as `biased_gelu`."""
    act_RC = torch.empty_like(pre_RC)
    R, C = pre_RC.shape
    if act_RC.numel():
        _gelu[(triton.cdiv(C, COLUMNS) * triton.cdiv(R, ROWS),)](
            pre_RC, bias_C, act_RC, R, C, kind, has_ptx(), ROWS, COLUMNS, num_warps=WARPS
        )
    return act_RC


def gelu_backward(pre_RC: Tensor, bias_C: Tensor, grad_RC: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The gradients of pre and of bias (float32) from that of what `gelu` gave."""
    grad_pre_RC = torch.empty_like(pre_RC)
    R, C = pre_RC.shape
    blocks = triton.cdiv(C, COLUMNS)
    strip = triton.cdiv(triton.cdiv(R, max(1, PROGRAMS // blocks)), ROWS) * ROWS
    sums_SC = torch.empty(triton.cdiv(R, max(1, strip)), C, dtype=torch.float32, device=pre_RC.device)
    if grad_pre_RC.numel():
        _gelu_backward[(blocks * len(sums_SC),)](
            pre_RC, bias_C, grad_RC, grad_pre_RC, sums_SC, R, C, strip, kind, has_ptx(), ROWS, COLUMNS, num_warps=WARPS
        )
    return grad_pre_RC, sums_SC.sum(0)


def has_ptx() -> bool:
    """Whether the kernels are compiled for a GPU of NVIDIA's, rather than interpreted."""
    return torch.version.hip is None and not triton.knobs.runtime.interpret


@triton.jit
def _gelu(
    pre_at, bias_at, act_at, R, C: tl.constexpr, kind: tl.constexpr, ptx: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (C + columns - 1) // columns
    column = tl.program_id(0) % blocks * columns + tl.arange(0, columns)[None, :]
    row = (tl.program_id(0) // blocks).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    exists = (row < R) & (column < C)
    bias = tl.load(bias_at + column, mask=column < C, other=0.0).to(tl.float32)
    x = tl.load(pre_at + row * C + column, mask=exists, other=0.0).to(tl.float32) + bias
    share, _ = _share_and_slope(x, kind, ptx)
    tl.store(act_at + row * C + column, (x * share).to(act_at.dtype.element_ty), mask=exists)


@triton.jit
def _gelu_backward(
    pre_at, bias_at, grad_at, grad_pre_at, sums_at, R, C: tl.constexpr, strip, kind: tl.constexpr, ptx: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (C + columns - 1) // columns
    column = tl.program_id(0) % blocks * columns + tl.arange(0, columns)[None, :]
    first = (tl.program_id(0) // blocks).to(tl.int64) * strip
    bias = tl.load(bias_at + column, mask=column < C, other=0.0).to(tl.float32)
    sums = tl.zeros([rows, columns], tl.float32)  # of each thread's own rows, so that threads need not wait for each other
    for done in range(0, strip, rows):
        row = first + done + tl.arange(0, rows)[:, None]
        exists = (row < R) & (column < C)
        x = tl.load(pre_at + row * C + column, mask=exists, other=0.0).to(tl.float32) + bias
        grad = tl.load(grad_at + row * C + column, mask=exists, other=0.0).to(tl.float32)
        share, slope = _share_and_slope(x, kind, ptx)
        grad_pre = grad * (share + x * slope)
        tl.store(grad_pre_at + row * C + column, grad_pre.to(grad_pre_at.dtype.element_ty), mask=exists)
        sums += grad_pre
    tl.store(sums_at + tl.program_id(0) // blocks * C + column, tl.sum(sums, 0, keep_dims=True), mask=column < C)


@triton.jit
def _share_and_slope(x, kind: tl.constexpr, ptx: tl.constexpr):
    """GELU(x) / x, which is a distribution function, and its derivative."""
    if kind == "quick":  # a sigmoid (Hendrycks and Gimpel 2016, section 2), as CLIP has it
        share = _inverse(1.0 + _exp2(x * (-1.702 * LOG2_E), ptx), ptx)
        slope = 1.702 * share * (1.0 - share)
    elif kind == "tanh":  # (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)) at u = sqrt(2 / pi) (x + 0.044715 x^3) (their equation)
        square = x * x
        twice_u = x * (1.5957691216057308 + 0.07135481627260025 * square)
        share = _inverse(1.0 + _exp2(twice_u * (-1.0 * LOG2_E), ptx), ptx)
        slope = share * (1.0 - share) * (1.5957691216057308 + 0.21406444881780076 * square)
    else:  # erf to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26), at |x| / sqrt(2)
        exp = _exp2(x * x * (-0.5 * LOG2_E), ptx)
        t = _inverse(1.0 + 0.2316418882663604 * tl.abs(x), ptx)
        tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)))) * exp
        share = tl.where(x < 0, tail, 1.0 - tail)
        slope = exp * 0.3989422804014327
    return share, slope


@triton.jit
def _exp2(x, ptx: tl.constexpr):
    """2^x; a GPU's own instruction alone, without what Triton puts around it for results below 1e-38."""
    if ptx:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def _inverse(x, ptx: tl.constexpr):
    """1 / x; likewise for x above 1e38."""
    if ptx:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x
