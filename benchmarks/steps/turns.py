"""A contestant's side of `benchmarks/training.py`: an optimisation step whenever its turn comes. Needs torch alone."""

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def read(folder: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of the step, on their device."""
    settings = json.loads(Path(folder, "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    tensors = load_file(Path(folder, "tensors.safetensors"))
    return settings, {name: one.to(settings["device"]) for name, one in tensors.items()}


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The drafter's first weights, by the names that all trainers give them."""
    return {name.removeprefix("drafter."): one for name, one in tensors.items() if name.startswith("drafter.")}


def resident(field: str) -> int:
    """Bytes that this process holds (VmRSS) or held at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(step: Callable[[], Tensor], device: str) -> dict[str, float]:
    """A step's seconds, those of the processor, its loss, and how much it held at its peak above what stood before."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier steps have freed is no part of this one's peak
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
    began, used = time.perf_counter(), time.process_time()
    loss = float(step())
    if cuda:
        torch.cuda.synchronize()
    found = {"seconds": time.perf_counter() - began, "processor": time.process_time() - used, "loss": loss}
    return found | {"peak": (torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - before}


def serve(make: Callable[[dict[str, Any], dict[str, Tensor]], tuple[list[Tensor], Callable[[], Tensor]]]) -> None:
    """Take a step for each line that comes, the folder of what it is about, and answer with a line.

    Args:
        make: settings and tensors -> the drafter's parameters, and a step's loss.
    """
    known, step, device = "", None, "cpu"
    for line in sys.stdin:
        if line != known:
            settings, tensors = read(line.strip())
            known, step, device = line, stepping(settings, *make(settings, tensors)), settings["device"]
        assert step is not None
        print("turn", json.dumps(measured(step, device)), flush=True)


def stepping(settings: dict[str, Any], parameters: list[Tensor], loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A whole optimisation step."""
    optimizer = torch.optim.AdamW([one for one in parameters if one.requires_grad], lr=1e-4)
    device, half = settings["device"].split(":")[0], settings["precision"] == "bfloat16"

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            total = loss()
        total.backward()
        optimizer.step()
        return total.detach()

    return step
