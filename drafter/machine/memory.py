"""Memory of the machine: what is free of it, and what this process has held, and keeps."""

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
LARGEST_MAPPED = 32 * 2**20  # the most that glibc takes
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # which this process is in, and what they hold
GROUP_FILES = {  # by kind, as the first says it: where the limit stands, and what is used
    "": ("", "memory.max", "memory.current"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}


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
    """Bytes that are free of the machine's memory, or of a container's; None where the system does not say so."""
    info = Path("/proc/meminfo")
    said = re.search(r"^MemAvailable: *(\d+) kB", info.read_text(), re.MULTILINE) if info.is_file() else None
    return None if said is None else min([int(said[1]) * 1024, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """What its control groups leave this process, each at least 0; what they hold of files counts as free."""
    left = []
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else ():
        _, kinds, path = line.split(":", 2)
        for kind in GROUP_FILES.keys() & kinds.split(","):
            place, limit, used = GROUP_FILES[kind]
            root = GROUPS / place
            own = root / path.lstrip("/")
            for group in (each for each in (own, *own.parents) if each.is_relative_to(root)):
                with suppress(OSError, ValueError):  # no such group, one that may not be read, one without a limit
                    most, held = (int((group / name).read_text()) for name in (limit, used))
                    files = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
                    left.append(max(0, most - held + (int(files[1]) if files else 0)))
    return left


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: of the device's memory, or of the machine's where it is a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
