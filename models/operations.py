"""Kernels of this project as operations of PyTorch, which torch.compile takes into its graphs without a break."""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "headstart"


def operation(kernel: Callable[..., Any]) -> torch._ops.OpOverload:
    """Register a typed function of tensors, on any device, under its name.

    What it returns must share no memory with what it is given.
    `torch.library.custom_op` does the same and looks, at every call, whether that is true, which costs the host time.
    """
    name = kernel.__name__
    torch.library.define(f"{NAMESPACE}::{name}", torch.library.infer_schema(kernel, mutates_args=()))
    torch.library.impl(f"{NAMESPACE}::{name}", "default", kernel)
    return getattr(getattr(torch.ops, NAMESPACE), name).default
