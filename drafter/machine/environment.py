"""What a run will find on this machine, as findings in words: versions, devices, memory, disk."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from drafter.machine.memory import free_memory
from drafter.machine.precision import fastest

VERSIONS = ("block-drafter", "torch", "transformers", "lightning", "datasets", "tokenizers", "safetensors")
GIGABYTE = 1e9
LEAST_MEMORY, LEAST_DISK = 4.0, 5.0  # gigabytes: the quickstart takes half of either


@dataclass(frozen=True)
class Fact:
    """One line of a report.

    Args:
        state: `ok`, `note` (works, but slower or with less), or `fault`.
    """

    name: str
    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<6}{self.name:<14}{self.text}"


def versions() -> Fact:
    """Python's and the packages' that decide numbers."""
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return Fact("versions", "ok", ", ".join(found))


def devices() -> list[Fact]:
    """The processor, the faster precision on it, and the CUDA devices or why there are none."""
    threads, cores = torch.get_num_threads(), os.cpu_count()
    faster = str(fastest("cpu")).removeprefix("torch.")
    found = [Fact("cpu", "ok", f"{cores} cores, {threads} threads; precision=auto takes {faster}")]
    if torch.version.cuda is None and torch.version.hip is None:
        return [
            *found,
            Fact("cuda", "note", f"torch {torch.__version__} is built without it; all runs on the CPU"),
        ]
    if not torch.cuda.is_available():
        return [*found, Fact("cuda", "note", "no device is seen: check the driver and CUDA_VISIBLE_DEVICES")]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = (size / GIGABYTE for size in torch.cuda.mem_get_info(index))
        what = f"{facts.name}, compute {facts.major}.{facts.minor}, {free:.1f} of {total:.1f} GB free"
        found.append(Fact(f"cuda:{index}", "ok", what))
    return found


def memory() -> Fact:
    """What is free of the machine's memory, where the system says so."""
    found = free_memory()
    if found is None:
        return Fact("memory", "note", "this system does not say how much is free")
    free = found / GIGABYTE
    state = "ok" if free >= LEAST_MEMORY else "note"
    return Fact("memory", state, f"{free:.1f} GB free" + ("" if state == "ok" else "; small verifiers only"))


def disk(name: str, folder: Path) -> Fact:
    """What is free where `folder` is, or would be made, and whether it can be written."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not os.access(there, os.W_OK):
        return Fact(name, "fault", f"{folder}: can't be written; choose another place")
    free = shutil.disk_usage(there).free / GIGABYTE
    state = "ok" if free >= LEAST_DISK else "note"
    return Fact(name, state, f"{folder}: {free:.1f} GB free")
