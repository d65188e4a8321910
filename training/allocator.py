"""On a CPU, memory that a step frees stays with the process for the next step."""

import ctypes
from collections.abc import Callable
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for them, malloc.h
KEPT = 2**31 - 1  # bytes, the most that mallopt takes
FROM_THE_HEAP = 32 * 2**20  # bytes, the same


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed; elsewhere nothing happens.

    It gives the top of its heap back as soon as 128 KB (later 64 MB) lie free there, which after a step are its activations;
    the next step then pays for every page again, 90,000 page faults and 6 % of the CPU's time for CLIP on a small ViT
    (`getrusage`: ru_minflt and ru_stime). The peak may change a little, because other holes are filled: by -2 to +3 % for three
    text objectives.
    """
    mallopt = _glibc("mallopt")
    mallopt(MMAP_THRESHOLD, FROM_THE_HEAP)  # given one threshold only, glibc leaves the other at 128 KB
    mallopt(TRIM_THRESHOLD, KEPT)


def give_back_holes() -> None:
    """Tell glibc to give back, this once, all pages that are free; elsewhere nothing happens.

    After a run's first step they lie between what stays, as the optimiser's states do, where they do not fit what comes next.
    """
    _glibc("malloc_trim")(0)


def _glibc(name: str) -> Callable[..., Any]:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return lambda *_: None
