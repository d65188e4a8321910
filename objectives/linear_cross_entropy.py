"""Cross-entropy of a linear layer's logits without ever holding all logits.

A vocabulary's logits are the largest tensor of a language model. Here a chunk of rows at a time goes from hidden vectors to
logits, loss and gradient, on a CPU while it is in the cache, so memory stays flat and the softmax is computed once. The idea
is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, section 3.2).

Shapes: N rows, C of a chunk, D width, V vocabulary, W >= V what it is filled up to.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.attention import has_triton

CHUNK = 2**21  # logits at a time: 8 MiB in float32, which a CPU's cache holds
GPU_CHUNK = 2**29  # 1 GiB in bf16: thousands of rows of a large vocabulary, so that few kernels have much to do
FILLED_TO = 64  # tensor cores want rows at multiples of 16 bytes, which 50,257 columns in bf16 are not


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    """(sum of nats over the rows, number of rows whose highest logit is the target's).

    Ties count as right: in bf16 a target often shares the highest logit with other classes.

    Args:
        target_N: class of each row; negative rows have no target: they add nothing, and no gradient.
    """
    device, num_classes = hidden_ND.device.type, len(weight_VD)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
    if has_triton(device):
        weight_VD = F.pad(weight_VD, (0, 0, 0, -num_classes % FILLED_TO))
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, bias_V, target_N, num_classes, torch.is_grad_enabled())


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden_ND: Tensor,
        weight_WD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        num_classes: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        softmax_gradient, chunk = pass_by_pass, CHUNK
        if hidden_ND.device.type != "cpu":
            chunk = GPU_CHUNK
        if has_triton(hidden_ND.device.type):
            from objectives.logits_kernel import softmax_gradient
        learns = grad_enabled and any(ctx.needs_input_grad)  # the latter says nothing of no_grad
        hidden_grad_ND = torch.zeros_like(hidden_ND) if learns else None
        weight_grad_WD = torch.zeros_like(weight_WD, dtype=torch.float32) if learns else None
        bias_grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if learns and bias_V is not None else None
        nats = hidden_ND.new_zeros((), dtype=torch.float32)
        correct = hidden_ND.new_zeros((), dtype=torch.float32)
        size = max(1, chunk // len(weight_WD))
        with torch.autocast(hidden_ND.device.type, enabled=False):  # dtypes are as they should be
            for first in range(0, len(hidden_ND), size):
                rows = slice(first, first + size)
                chunk_CD = hidden_ND[rows]
                logits_CW = chunk_CD @ weight_WD.T
                more, right, grad_CW = softmax_gradient(logits_CW, bias_V, target_N[rows], num_classes, learns)
                nats += more
                correct += right
                if grad_CW is None:
                    continue
                if bias_grad_V is not None:
                    bias_grad_V += grad_CW[:, :num_classes].sum(0, dtype=torch.float32)
                grad_CW = grad_CW.to(weight_WD.dtype)
                hidden_grad_ND[rows] = grad_CW @ weight_WD
                if weight_WD.dtype == torch.float32:
                    torch.addmm(weight_grad_WD, grad_CW.T, chunk_CD, out=weight_grad_WD)  # FLOP counters do not know addmm_
                elif weight_WD.is_cuda:  # the product adds to float32 on its way out
                    torch.addmm(weight_grad_WD, grad_CW.T, chunk_CD, torch.float32, out=weight_grad_WD)
                else:
                    weight_grad_WD += grad_CW.T @ chunk_CD
        ctx.save_for_backward(hidden_grad_ND, weight_grad_WD, bias_grad_V)
        ctx.weight_dtype = weight_WD.dtype
        ctx.mark_non_differentiable(correct)
        return nats, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, nats_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad_ND, weight_grad_WD, bias_grad_V = ctx.saved_tensors
        hidden_grad_ND = hidden_grad_ND * nats_grad.to(hidden_grad_ND.dtype)
        weight_grad_WD = (weight_grad_WD * nats_grad).to(ctx.weight_dtype)
        return hidden_grad_ND, weight_grad_WD, None if bias_grad_V is None else bias_grad_V * nats_grad, None, None, None


def pass_by_pass(
    logits_CV: Tensor, bias_V: Tensor | None, target_C: Tensor, num_classes: int, learns: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum of nats, number right, gradient of the nats (C, V) in float32 or None), as `logits_kernel.softmax_gradient`."""
    logits_CV = logits_CV.float()
    if bias_V is not None:
        logits_CV += bias_V
    used_C, class_C1 = target_C >= 0, target_C.clamp(min=0)[:, None]
    # every pass over the logits counts: one maximum, one exponential, one sum
    highest_C, own_C = logits_CV.amax(1), logits_CV.gather(1, class_C1)[:, 0]
    right = ((own_C == highest_C) & used_C).sum()
    exp_CV = logits_CV.sub_(highest_C[:, None]).exp_()
    total_C = exp_CV.sum(1)
    nats = ((total_C.log() + highest_C - own_C) * used_C).sum()
    if not learns:
        return nats, right, None
    grad_CV = exp_CV.mul_((used_C / total_C)[:, None])  # the softmax, where there is a target
    return nats, right, grad_CV.scatter_add_(1, class_C1, -used_C[:, None].to(grad_CV.dtype))
