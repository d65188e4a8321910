"""In which kernels a GPU's step spends its time, alone and in a row of steps, and what the card can do at its best.

A step alone, after a pause, has the card at its highest clock. In a row the card may be short of power, and its kernels slower,
or wait for the host, and stand idle between them.
"""

import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.gate import Gate
from benchmarks.machine import copy_bytes, matmul_flops, synchronise
from benchmarks.sides import bare
from benchmarks.works import Work

SIDE = 8192  # of the matrices that a card multiplies at its fastest
COPIED = 2**29  # float32 numbers: so many that the start of a copy does not count
LASTING = 2.0  # seconds of products in a row, in which a card comes to the clock that it can hold
ALONE, ROW = 6, 4  # steps before the end of the one that is profiled alone, and in the row that comes after it
KINDS = {  # of kernels, by what their names contain; the first that fits
    "attention": ("sdpa", "fmha", "flash", "_attend", "cudnn::fusion"),
    "convolutions": ("conv", "fprop", "dgrad", "wgrad", "nhwc", "nchw"),
    "matrix products": ("nvjet", "gemm", "cutlass", "splitK"),
    "logits": ("_softmax_row",),
    "fused by the compiler": ("triton_",),
    "activation": ("_gelu",),
    "update": ("multi_tensor_apply",),
    "from the host": ("HtoD",),
    "the rest": ("",),
}
RANGES = ("## ", "Optimizer.", "Torch-Compiled", "CompiledF", "ProfilerStep")  # names of many kernels together


class Profiled:
    """A gate that profiles a step alone, then some in a row, and tells of both with the facts at the end of the last."""

    def __init__(self, gate: Gate):
        self.gate, self.describe, self.steps = gate, gate.describe, 0
        self.found: dict[str, Any] = {}
        self.profiled: profile | None = None

    def step(self, **facts: Any) -> None:
        self.steps += 1
        if torch.cuda.is_available():
            if self.steps == ALONE:
                self.found["kernels"] = by_kind(self._stopped())
            if self.steps == ALONE + ROW:
                self.found["row"] = in_a_row(kernel_spans(self._stopped()), ROW)
            if self.steps in (ALONE - 1, ALONE):
                torch.cuda.synchronize()
                self.profiled = profile(activities=[ProfilerActivity.CUDA])
                self.profiled.start()
        self.gate.step(**facts, **self.found)

    def _stopped(self) -> profile:
        torch.cuda.synchronize()
        self.profiled.stop()
        return self.profiled


def by_kind(profiled: profile) -> dict[str, float]:
    """Seconds of the kernels of each kind."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in kernels_of(profiled):
        seconds[kind_of(event.name)] += event.time_range.elapsed_us() / 1e6
    return seconds


def kernels_of(profiled: profile) -> list[FunctionEvent]:
    """The events of a profile that are one kernel or one copy each."""
    events = profiled.events()
    return [event for event in events if event.device_type == DeviceType.CUDA and not event.name.startswith(RANGES)]


def kernel_spans(profiled: profile) -> list[tuple[float, float]]:
    """When kernels began and ended, in microseconds."""
    return [(event.time_range.start, event.time_range.end) for event in kernels_of(profiled)]


def in_a_row(spans: list[tuple[float, float]], steps: int) -> dict[str, float]:
    """Seconds a step of `kernels`, added up as in `by_kind`, and `idle`, without any, from the first to the last."""
    idle, done = 0.0, min(began for began, _ in spans)
    for began, ended in sorted(spans):
        idle += max(0.0, began - done)
        done = max(done, ended)
    kernels = sum(ended - began for began, ended in spans)
    return {"kernels": kernels / 1e6 / steps, "idle": idle / 1e6 / steps}


def kind_of(kernel: str) -> str:
    return next(kind for kind, parts in KINDS.items() if any(part in kernel for part in parts))


def profiled_bare(gate: Gate, work: Work, *arguments: Any) -> None:
    """The bare loop, of which the steps up to ALONE + ROW are profiled."""
    bare(Profiled(gate), work, *arguments)


def rates() -> dict[str, Any]:
    """What the card can do, in the form of `machine.described`, and how fast it multiplies for longer."""
    found = {"matmul_flops": {"bf16": matmul_flops(torch.bfloat16, SIDE, "cuda")}, "copy_bytes": copy_bytes(COPIED, "cuda")}
    found["lasting_matmul_flops"] = lasting_matmul_flops()
    torch.cuda.empty_cache()
    return found


def lasting_matmul_flops(side: int = SIDE, seconds: float = LASTING, device: str = "cuda") -> float:
    """FLOP/s of products in bf16 in the second half of so many seconds of them."""
    first, second = torch.randn(2, side, side, device=device).to(torch.bfloat16)
    for _ in range(2):
        synchronise()
        times, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / 2:
            for _ in range(8):  # a GPU's queue holds more, but what is in it must be waited for
                first @ second
            synchronise()
            times += 8
        rate = 2 * side**3 * times / (time.perf_counter() - began)
    return rate
