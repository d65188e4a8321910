"""Feed-forward layers on a GPU whose bias and GELU are one Triton kernel each way: weights and their names stay as they are.

`gelu_kernel` has the reasons it is faster. Registered with PyTorch as operations, the two run inside torch.compile without a
break. Triton comes with PyTorch for CUDA on Linux only, so it is imported where it is needed.

Shapes: C the width of the hidden layer.
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.operations import operation

DEVICE = "cuda"  # of the kernels
KINDS = {  # of GELU, by the class of an activation, whichever library's: x times which distribution function
    "GELU": "normal", "GELUActivation": "normal",
    "GELUTanh": "tanh", "NewGELUActivation": "tanh",
    "QuickGELUActivation": "quick", "QuickGELU": "quick",
}  # fmt: skip


def fuse_gelu(module: nn.Module) -> None:
    """Give the feed-forward layers of timm, BERT, ELECTRA and GPT-2 that have a bias and GELU a new `forward`."""
    for layer in module.modules():
        forward, first, activation = LAYERS.get(type(layer).__name__, (None, "", ""))
        if forward is None or kind_of(getattr(layer, activation, None)) is None:
            continue
        first = getattr(layer, first)
        if type(first).__name__ in ("Linear", "Conv1D") and first.bias is not None:
            layer.forward = MethodType(forward, layer)


def kind_of(activation: nn.Module | None) -> str | None:
    """One of KINDS' values; None where it is no GELU."""
    if getattr(activation, "approximate", "none") != "none":
        return "tanh"
    return KINDS.get(type(activation).__name__)


def _hidden(x: Tensor, first: nn.Module, activation: nn.Module) -> Tensor:
    """(..., C) behind GELU; in float32, or moved to a CPU, the library's own way."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if device != DEVICE or dtype not in (torch.bfloat16, torch.float16):
        return activation(first(x))
    # transformers' Conv1D keeps its weight transposed
    pre = F.linear(x, first.weight) if isinstance(first, nn.Linear) else x @ first.weight
    return biased_gelu(pre, first.bias, kind_of(activation))


def _mlp(self: nn.Module, x: Tensor) -> Tensor:
    hidden = self.norm(self.drop1(_hidden(x, self.fc1, self.act)))
    return self.drop2(self.fc2(hidden))


def _intermediate(self: nn.Module, hidden_states: Tensor) -> Tensor:
    return _hidden(hidden_states, self.dense, self.intermediate_act_fn)


def _gpt2_mlp(self: nn.Module, hidden_states: Tensor) -> Tensor:
    return self.dropout(self.c_proj(_hidden(hidden_states, self.c_fc, self.act)))


LAYERS = {  # by class: the new forward, and what its first map and its activation are called
    "Mlp": (_mlp, "fc1", "act"),
    "BertIntermediate": (_intermediate, "dense", "intermediate_act_fn"),
    "ElectraIntermediate": (_intermediate, "dense", "intermediate_act_fn"),
    "GPT2MLP": (_gpt2_mlp, "c_fc", "act"),
}


@operation
def biased_gelu(pre: Tensor, bias_C: Tensor, kind: str) -> Tensor:
    """GELU(pre + bias), (..., C), with the bias in its own precision."""
    from models.gelu_kernel import gelu

    return gelu(pre.contiguous().view(-1, len(bias_C)), bias_C, kind).view(pre.shape)


@operation
def biased_gelu_backward(pre: Tensor, bias_C: Tensor, grad: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The gradients of pre (..., C) and of bias (C,) in float32."""
    from models.gelu_kernel import gelu_backward

    flat = [x.contiguous().view(-1, len(bias_C)) for x in (pre, grad)]
    grad_pre, grad_bias_C = gelu_backward(flat[0], bias_C, flat[1], kind)
    return grad_pre.view(pre.shape), grad_bias_C


@torch.library.register_fake(biased_gelu)
def _(pre: Tensor, bias_C: Tensor, kind: str) -> Tensor:
    return torch.empty_like(pre, memory_format=torch.contiguous_format)


@torch.library.register_fake(biased_gelu_backward)
def _(pre: Tensor, bias_C: Tensor, grad: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(pre, memory_format=torch.contiguous_format), bias_C.new_empty(bias_C.shape, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    pre, bias_C, ctx.kind = inputs
    ctx.save_for_backward(pre, bias_C)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    pre, bias_C = ctx.saved_tensors
    grad_pre, grad_bias_C = biased_gelu_backward(pre, bias_C, grad, ctx.kind)
    return grad_pre, grad_bias_C.to(bias_C.dtype), None


torch.library.register_autograd(biased_gelu, _backward, setup_context=_keep)
