"""How much memory a process has needed."""

import gc
import os
import resource
from contextlib import suppress
from pathlib import Path

import torch

from training.allocator import give_back_holes

PEAK = "5"  # what /proc/self/clear_refs is told, to forget the highest resident memory


def forget_peak() -> None:
    """Free what earlier runs of this process left, and count from here on, where the system can forget what they needed."""
    if gc.get_freeze_count():  # `conf.collector`: there were earlier runs
        gc.collect()
        give_back_holes()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(PEAK, encoding="utf-8")


def peak_memory_bytes() -> int:
    """Peak memory of this process since `forget_peak`: on the GPU where one is used, else resident on the host."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    peak = peak_resident_bytes("self")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


def peak_resident_bytes(process: int | str) -> int | None:
    """Of a running process, by its number or "self"; None where the system does not say.

    What `getrusage` says is passed on to the programs that a process starts: a small one would seem as large as its parent was.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(found[0][1]) if found else None
