"""Which precision is faster here: processors differ, so ask this one."""

import time
from functools import cache

import torch

from drafter.config import FittingConfig, require
from drafter.machine.ranks import ranks

SIZES = (256, 576, 1536)
SECONDS = 0.4


@cache
def fastest(device: str) -> torch.dtype:
    """bfloat16 where its matrix product beats float32's by a tenth or more on `device`, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if _rate(torch.bfloat16) > 1.1 * _rate(torch.float32) else torch.float32


def keep_float32_exact() -> None:
    """Products of float32 matrices stay in float32 on GPUs, too: what is faster is bfloat16, and says so."""
    torch.set_float32_matmul_precision("highest")


def choose(requested: str, device: str) -> torch.dtype:
    """Turn `auto | float32 | bfloat16` into a dtype."""
    return fastest(device) if requested == "auto" else getattr(torch, requested)


def choose_together(settings: FittingConfig, device: str) -> torch.dtype:
    """What a fit runs in, the same on all of its ranks.

    Raises:
        ValueError: each of several ranks would have to find out.
    """
    alone = device != "cpu" or ranks(settings.devices, device, settings.nodes) == 1
    remedy = "of several ranks, each could find another one faster; name float32 or bfloat16"
    require(alone or settings.precision != "auto", "training.precision", settings.precision, remedy)
    return choose(settings.precision, device)


def _rate(dtype: torch.dtype) -> float:
    """Matrix products per second, the best of several short runs: a busy neighbour only ever slows one down."""
    rows, inner, columns = SIZES
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    best, end = 0.0, time.perf_counter() + SECONDS
    left @ right
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(4):
            left @ right
        best = max(best, 4 / (time.perf_counter() - start))
    return best
