"""The machine: what it is, and how fast it multiplies matrices and copies memory, from which bounds of a step follow."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from models.attention import has_bf16

PACKAGES = ("torch", "transformers", "timm", "lightning", "lightly", "open_clip_torch", "webdataset")
SIDE = 2048  # of the matrices
FEW_SIDE, PATIENCE = 256, 0.5  # and where one product of those would take more seconds than this, as bf16 without hardware does
COPIED = 2**26  # float32 numbers: 256 MiB, far beyond any cache
ADAMW_PASSES = 7  # over memory as large as the weights: weight, gradient and two moments are read, all but the gradient written


def described(rates: bool = True) -> dict[str, Any]:
    """What a measurement depends on; `rates` measures in about two seconds what the machine can do."""
    known = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_bf16("cpu"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES if is_installed(package)},
    }
    if rates:
        known["matmul_flops"] = {"fp32": matmul_flops(torch.float32), "bf16": matmul_flops(torch.bfloat16)}
        known["copy_bytes"] = copy_bytes()
    return known


def is_installed(package: str) -> bool:
    """Peers need not be, where they are not measured."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def matmul_flops(dtype: torch.dtype, side: int = SIDE, device: str = "cpu") -> float:
    """FLOP/s of square matrix products; of small ones where this kind is slow."""
    if device == "cpu" and side > FEW_SIDE and 2 * side**3 / (few := matmul_flops(dtype, FEW_SIDE)) > PATIENCE:
        return few
    first, second = torch.randn(2, side, side, device=device).to(dtype)
    return 2 * side**3 / _fastest(lambda: first @ second)


def copy_bytes(numbers: int = COPIED, device: str = "cpu") -> float:
    """Bytes/s of a copy, read and written ones counted."""
    source, target = torch.ones(numbers, device=device), torch.empty(numbers, device=device)
    return 2 * 4 * numbers / _fastest(lambda: target.copy_(source))


def _fastest(work: Callable[[], object], times: int = 4) -> float:
    """Seconds of the fastest of some times, after one that warms up; what disturbs a measurement only slows it."""
    work()
    found = []
    for _ in range(times):
        synchronise()
        began = time.perf_counter()
        work()
        synchronise()
        found.append(time.perf_counter() - began)
    return min(found)


def synchronise() -> None:
    """Wait for a GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fewest_seconds(step_flops: float, parameters: float, machine: dict[str, Any], precision: str) -> float:
    """Of a step that multiplies at the measured rate, and moves its weights by AdamW at the measured copy rate."""
    products = step_flops / machine["matmul_flops"]["fp32" if precision == "fp32" else "bf16"]
    return products + 4 * ADAMW_PASSES * parameters / machine["copy_bytes"]


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()
