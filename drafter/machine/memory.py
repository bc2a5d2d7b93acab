"""Keep freed memory in the process: a step frees and takes the same large blocks again and again."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
LARGEST_MAPPED = 32 * 2**20  # the most that glibc takes


def keep_freed_memory() -> None:
    """Tell glibc not to hand memory back between steps (a tenth of a step's time on a CPU); elsewhere do nothing."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # absent from musl
        mallopt(MMAP_THRESHOLD, LARGEST_MAPPED)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
