"""In which kernels a GPU's step spends its time, beside the fewest seconds that its work takes at the card's measured rates."""

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gate import Gate
from benchmarks.machine import copy_bytes, matmul_flops
from benchmarks.sides import bare
from benchmarks.works import Work

SIDE = 8192  # of the matrices that a card multiplies at its fastest
COPIED = 2**29  # float32 numbers: so many that the start of a copy does not count
KINDS = {  # of kernels, by what their names contain; the first that fits
    "attention": ("sdpa", "fmha", "flash", "_attend", "cudnn::fusion"),
    "convolutions": ("conv", "fprop", "dgrad", "wgrad", "nhwc", "nchw"),
    "matrix products": ("nvjet", "gemm", "cutlass", "splitK"),
    "logits": ("_softmax_row",),
    "fused by the compiler": ("triton_",),
    "update": ("multi_tensor_apply",),
    "from the host": ("HtoD",),
    "the rest": ("",),
}
RANGES = ("## ", "Optimizer.", "Torch-Compiled", "CompiledF", "ProfilerStep")  # names of many kernels together


class Profiled:
    """A gate that profiles one step, and tells of it with the facts at its end.

    Args:
        step: its number, from 1.
    """

    def __init__(self, gate: Gate, step: int):
        self.gate, self.describe, self.left, self.profiled = gate, gate.describe, step, None

    def step(self, **facts: Any) -> None:
        self.left -= 1
        if self.left == 1 and torch.cuda.is_available():
            torch.cuda.synchronize()
            self.profiled = profile(activities=[ProfilerActivity.CUDA])
            self.profiled.start()
        if self.left == 0 and self.profiled is not None:
            torch.cuda.synchronize()
            self.profiled.stop()
            facts["kernels"] = by_kind(self.profiled)
            self.profiled = None
        self.gate.step(**facts)


def by_kind(profiled: profile) -> dict[str, float]:
    """Seconds of the kernels of each kind."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in profiled.events():
        if event.device_type == DeviceType.CUDA and not event.name.startswith(RANGES):
            seconds[kind_of(event.name)] += event.time_range.elapsed_us() / 1e6
    return seconds


def kind_of(kernel: str) -> str:
    return next(kind for kind, parts in KINDS.items() if any(part in kernel for part in parts))


def profiled_bare(gate: Gate, step: int, work: Work, *arguments: Any) -> None:
    """The bare loop, of which one step is profiled."""
    bare(Profiled(gate, step), work, *arguments)


def rates() -> dict[str, Any]:
    """What the card can do, in the form of `machine.described`."""
    found = {"matmul_flops": {"bf16": matmul_flops(torch.bfloat16, SIDE, "cuda")}, "copy_bytes": copy_bytes(COPIED, "cuda")}
    torch.cuda.empty_cache()
    return found
