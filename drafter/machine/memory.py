"""Memory of the machine: what is free of it, and what this process has held, and keeps."""

import ctypes
import re
import resource
import sys
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
LARGEST_MAPPED = 32 * 2**20  # the most that glibc takes


def keep_freed_memory() -> None:
    """Tell glibc not to hand memory back between steps (a tenth of a step's time on a CPU); elsewhere do nothing.

    A step frees and takes the same large blocks again and again.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # absent from musl
        mallopt(MMAP_THRESHOLD, LARGEST_MAPPED)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def free_memory() -> int | None:
    """Bytes that are free of the machine's memory; None where the system does not say so."""
    info = Path("/proc/meminfo")
    said = re.search(r"^MemAvailable: *(\d+) kB", info.read_text(), re.MULTILINE) if info.is_file() else None
    return None if said is None else int(said[1]) * 1024


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: of the device's memory, or of the machine's where it is a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
