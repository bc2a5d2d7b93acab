"""Scoring slots chunk by chunk against materialised logits, side by side: time, memory, and what the losses add.

    python benchmarks/scoring.py [--repeats 5] [--device cuda] [--json FILE]

Time: medians of interleaved repetitions of forward and backward. Memory: what the process grew by at its peak (CPU,
each way in a process of its own; Linux) or what the allocator held at its peak (CUDA), inputs left out.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from drafter.files import write_json
from losses import BlockScores, ChainReward, DecayedCE, FirstError, Losses, score_slots

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MIB = 2**20


def materialised(hidden: Tensor, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way: all logits, log_softmax in float32, gather."""
    logits = hidden @ head.T  # [N, V]
    hit = logits.argmax(-1) == labels
    return -logits.float().log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1), hit


def inputs(options: argparse.Namespace, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    empty = {"dtype": dtype, "device": options.device}
    hidden = torch.empty(options.slots, options.width, **empty).normal_().requires_grad_()
    head = torch.empty(options.vocabulary, options.width, **empty).normal_(std=0.05)
    return hidden, head, torch.randint(options.vocabulary, (options.slots,), device=options.device)


def ways(options: argparse.Namespace) -> dict[str, Callable[..., tuple[Tensor, Tensor]]]:
    def chunked(hidden: Tensor, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return score_slots(hidden, head, labels, options.chunk_size)

    return {"materialised": materialised, "chunked": chunked}


def step(way: Callable[..., tuple[Tensor, Tensor]], hidden: Tensor, head: Tensor, labels: Tensor) -> None:
    hidden.grad = None
    way(hidden, head, labels)[0].mean().backward()


def seconds(call: Callable[[], None], device: str) -> float:
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def medians(calls: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, so that a slow minute slows all of them."""
    for call in calls.values():
        seconds(call, device)
    taken = [{name: seconds(call, device) for name, call in calls.items()} for _ in range(repeats)]
    return {name: statistics.median(each[name] for each in taken) for name in calls}


def resident(field: str) -> int:
    """Bytes this process holds (VmRSS) or held at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_bytes(options: argparse.Namespace, dtype_name: str, way: str) -> int:
    """Runs in a fresh process, as a peak never comes down again."""
    torch.set_num_threads(options.threads)
    hidden, head, labels = inputs(options, DTYPES[dtype_name])
    step(ways(options)[way], hidden[:2].detach().requires_grad_(), head[:64], labels[:2] % 64)  # load the kernels
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(ways(options)[way], hidden, head, labels)
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
    step(ways(options)[way], hidden, head, labels)
    return resident("VmHWM") - before


def measure_scoring(options: argparse.Namespace, dtype_name: str) -> dict[str, float]:
    tensors = inputs(options, DTYPES[dtype_name])
    taken = medians(
        {name: lambda way=way: step(way, *tensors) for name, way in ways(options).items()},  # type: ignore[misc]
        options.repeats,
        options.device,
    )
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peak = {name: pool.apply(peak_bytes, (options, dtype_name, name)) for name in ways(options)}
    logits = options.slots * options.vocabulary * 4
    return {
        "materialised_s": taken["materialised"],
        "chunked_s": taken["chunked"],
        "time_ratio": taken["chunked"] / taken["materialised"],
        "materialised_peak_mib": peak["materialised"] / MIB,
        "chunked_peak_mib": peak["chunked"] / MIB,
        "chunked_peak_of_float32_logits": peak["chunked"] / logits,
    }


def measure_losses(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds of the losses, forward and backward, given the scores of blocks of 15 slots."""
    nll = torch.rand(1, options.slots // 15, 15, device=options.device).requires_grad_()
    scores = BlockScores(nll, nll < 0.5, nll >= 0)
    sets = {
        "uniform": Losses(DecayedCE(decay_slots=None), FirstError(None), ChainReward(None)),
        "all_three": Losses(),
    }
    taken = medians(
        {name: lambda losses=losses: losses(scores)[0].backward() for name, losses in sets.items()},  # type: ignore[misc]
        20 * options.repeats,
        options.device,
    )
    return {f"{name}_us": 1e6 * value for name, value in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=2048)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scoring = {name: measure_scoring(options, name) for name in DTYPES}
    losses = measure_losses(options)
    added = losses["all_three_us"] - losses["uniform_us"]
    losses["added_to_scoring_bfloat16"] = added / 1e6 / scoring["bfloat16"]["chunked_s"]
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} CPU threads"
    sizes = f"{options.slots} slots, width {options.width}, vocabulary {options.vocabulary}"
    print(f"{sizes}; {device}; torch {torch.__version__}\n")
    print("| dtype | materialised | chunked | ratio | materialised peak | chunked peak | of float32 logits |")
    print("|---|---|---|---|---|---|---|")
    for name, row in scoring.items():
        print(
            f"| {name} | {row['materialised_s']:.3f} s | {row['chunked_s']:.3f} s | {row['time_ratio']:.2f} "
            f"| {row['materialised_peak_mib']:.0f} MiB | {row['chunked_peak_mib']:.0f} MiB "
            f"| {row['chunked_peak_of_float32_logits']:.2f} |"
        )
    both = f"uniform alone {losses['uniform_us']:.0f} us, all three {losses['all_three_us']:.0f} us"
    print(f"\nLosses, given the scores: {both}: {losses['added_to_scoring_bfloat16']:+.2%} of scoring in bfloat16.")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        figures = {"settings": settings, "device": device, "torch": torch.__version__}
        write_json(options.json, {**figures, "scoring": scoring, "losses": losses})


if __name__ == "__main__":
    main()
