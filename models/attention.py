"""Which attention kernel runs: chosen by device, precision and length, never by habit. It changes speed, not what is learned.

In bfloat16 PyTorch's fused attention for CPUs spends half of a small ViT's step in its backward (measured on one with
AVX-512); plain matmul-softmax-matmul does not, until the (N, N) scores outgrow the caches. In float32 steps take as long with
either, within 3 % from 17 to 128 tokens, or less (causal attention and CLIP 10 %) with the fused one, which keeps no scores.
On a GPU pictures have so few tokens that general kernels waste it; those have one of their own, on the kind it was measured on.
"""

import importlib.util

import torch
from torch import nn

from errors import BadInput, nearest

CHOICES = ("auto", "eager", "sdpa", "short", "flex", "xformers")
EAGER_UP_TO = 256  # tokens, in half precision on a CPU


def choose_attention(choice: str, device_type: str, precision: str, num_tokens: int) -> tuple[str, str]:
    """Resolve the setting `attention`.

    Args:
        precision: "fp32", "bf16" or "fp16", of the training step.

    Returns:
        (kernel, reason): the kernel is one of CHOICES but "auto"; the reason is for the log.

    Raises:
        BadInput: the choice does not exist.
    """
    if choice not in CHOICES:
        raise BadInput(f"there is no attention '{choice}'; {nearest(choice, CHOICES)}")
    if choice == "flex" and device_type != "cuda":
        return choose_attention("auto", device_type, precision, num_tokens)[0], f"FlexAttention does not train on {device_type}"
    if choice == "short" and not (device_type == "cuda" and is_hopper()):
        return choose_attention("auto", device_type, precision, num_tokens)[0], "its kernel is for Hopper GPUs"
    if choice == "xformers":
        if importlib.util.find_spec("xformers") is None:
            return "sdpa", 'xFormers is not installed (pip install "headstart[xformers]"), so the next best'
        if device_type != "cuda":
            return choose_attention("auto", device_type, precision, num_tokens)[0], f"xFormers has no kernel for {device_type}"
        return "xformers", "as asked"
    if choice != "auto":
        return choice, "as asked"
    reason = f"on {device_type} in {precision} at {num_tokens} tokens"
    if precision == "fp32":
        return "sdpa", reason
    if device_type == "cuda" and is_hopper():
        return "short", reason
    return ("eager" if device_type == "cpu" and num_tokens <= EAGER_UP_TO else "sdpa"), reason


def set_attention(module: nn.Module, kernel: str) -> None:
    """Make every attention layer inside `module` use `kernel`; weights and their names stay as they are.

    A layer that does not have it takes "sdpa": "short" and xFormers are for pictures, FlexAttention for text, where blocks of a
    mask that nothing may see are skipped, as between documents that are kept apart.
    """
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):  # timm's models
            _exchange(layer, kernel)
            layer.fused_attn = kernel != "eager"
        if hasattr(layer, "set_attn_implementation"):  # transformers' models
            flex = kernel == "flex" and has_flex(layer)
            layer.set_attn_implementation("flex_attention" if flex else "eager" if kernel == "eager" else "sdpa")


def is_hopper() -> bool:
    """Whether the GPU is of the kind on which "short" was measured; others have less memory for a program, or no Triton."""
    here = torch.cuda.is_available() and torch.version.hip is None and has_triton("cuda")
    return here and torch.cuda.get_device_capability()[0] == 9


def has_triton(device_type: str) -> bool:
    """Whether Triton's kernels run; it comes with PyTorch for CUDA on Linux. Asked in a compiled block, it breaks the graph."""
    return device_type == "cuda" and importlib.util.find_spec("triton") is not None


def has_flex(net: nn.Module) -> bool:
    """Whether a network of transformers runs on FlexAttention; T5's claims to (5.23), but reads its positions by row."""
    return getattr(net, "_supports_flex_attn", False) and "t5" not in net.config.model_type


def _exchange(layer: nn.Module, kernel: str) -> None:
    """The class of one of timm's layers for the one that has the kernel."""
    from timm.layers import Attention  # seconds, for which text has no use

    from models.eager_attention import EagerAttention
    from models.short_attention import ShortAttention
    from models.xformers_attention import XformersAttention

    if isinstance(layer, Attention):
        own = {"xformers": XformersAttention, "eager": EagerAttention, "short": ShortAttention}
        layer.__class__ = own.get(kernel, Attention)


def kernels_used(module: nn.Module) -> set[str]:
    """The kernels that the attention layers of `module` use now (empty for a model without attention)."""
    used = set()
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            used.add(getattr(layer, "kernel", "sdpa" if layer.fused_attn else "eager"))
        elif hasattr(layer, "set_attn_implementation"):
            used.add(layer.config._attn_implementation.removesuffix("_attention"))
    return used


def has_bf16(device_type: str) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device_type == "mps"
