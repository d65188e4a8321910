"""On a CPU, memory that a step frees stays with the process for the next step."""

import ctypes

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
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(MMAP_THRESHOLD, FROM_THE_HEAP)  # given one threshold only, glibc leaves the other at 128 KB
    mallopt(TRIM_THRESHOLD, KEPT)
