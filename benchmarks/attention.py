"""Attention over a cache: flash-attn's kernel, on CPUs ours, against SDPA; a pass of one layer, by context length.

    python benchmarks/attention.py [--contexts 512 2048 8192 32768] [--batch-sizes 1 8] [--csv FILE]

Both kernels take turns on the same numbers; a row's time is the median. Outputs are compared first: the largest
difference is printed beside the times. Where the other kernel can't run, SDPA is timed alone and the reason is told.
"""

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drafter.attention import KVCache, LayerShape, choose_kernel
from drafter.evaluation.race import timed


def tokens(batch: int, count: int, heads: int, options: argparse.Namespace) -> Tensor:
    return torch.randn(batch, count, heads, options.width, device=options.device, dtype=getattr(torch, options.dtype))


def caches(options: argparse.Namespace, kernels: list[str], batch: int, context: int) -> dict[str, KVCache]:
    """One cache per kernel, with the same random tokens and lengths: all of the context, or a little less."""
    found = {}
    made: tuple[Tensor, Tensor] | None = None
    for kernel in kernels:
        shapes = [LayerShape(options.kv_heads, options.width, options.width)]
        cache = KVCache(
            shapes, batch, context + options.block, getattr(torch, options.dtype), torch.device(options.device), kernel
        )
        made = made or (torch.randn_like(cache.keys[0]), torch.randn_like(cache.values[0]))
        cache.keys[0].copy_(made[0])
        cache.values[0].copy_(made[1])
        cache.set_lengths([context - row * (context // 64) for row in range(batch)])
        found[kernel] = cache
    return found


def measure(options: argparse.Namespace, kernels: list[str], batch: int, context: int, causal: bool) -> dict[str, Any]:
    """Milliseconds of each kernel, its write of the new tokens included."""
    query = tokens(batch, options.block, options.heads, options)
    key, value = (tokens(batch, options.block, options.kv_heads, options) for _ in range(2))
    made = caches(options, kernels, batch, context)

    def attend(kernel: str) -> Tensor:
        return made[kernel].attend(0, query, key, value, causal=causal, scale=options.width**-0.5)

    out = {kernel: attend(kernel).float() for kernel in kernels}
    device = torch.device(options.device)
    taken: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    for _ in range(options.repeats):
        for kernel in kernels:
            spent, _ = timed(device, lambda kernel=kernel: [attend(kernel) for _ in range(options.calls)])
            taken[kernel].append(1e3 * spent / options.calls)
    found: dict[str, Any] = {"batch": batch, "context": context, "pass": "verify" if causal else "draft"}
    found |= {f"{kernel}_ms": statistics.median(times) for kernel, times in taken.items()}
    if len(kernels) == 2:
        first, second = out.values()
        found |= {
            "ratio": found["sdpa_ms"] / found[f"{kernels[0]}_ms"],
            "difference": float((first - second).abs().max()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--block", type=int, default=16, help="new tokens of a pass")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=128, help="of a head")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10, help="passes of a repeat")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    kernels = ["sdpa"]
    try:
        other = "flash_cpu" if device.type == "cpu" else "flash_attn"
        kernels.insert(0, choose_kernel(other, device, getattr(torch, options.dtype)))
    except ValueError as error:
        print(f"{error}: SDPA alone")
    rows = [
        measure(options, kernels, batch, context, causal)
        for batch in options.batch_sizes
        for context in options.contexts
        for causal in (True, False)
    ]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print(
            "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()) + " |"
        )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
