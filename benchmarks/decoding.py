"""Decoding side by side in one run: same weights, prompts, machine, dtype; transformers' ways and ours, taking turns.

    python benchmarks/decoding.py DRAFTER --verifier smollm2 --out DIR [--batch-sizes 1 8] [--prompts 8] [--vllm PYTHON]
    python benchmarks/decoding.py DRAFTER --verifier smollm2 --out DIR --exactness [--dtypes float32 bfloat16]

The first compares, greedily: transformers' generate, our loop without drafts, transformers' DFlash assistant with the
same drafter (batch 1 only; it proposes from the whole vocabulary), transformers' prompt lookup (batch 1 only), ours.
Where `--vllm` names the Python of its environment (see `vllm_peer.py`), vLLM too, plain and with the same drafter.
The passes of a cycle are timed in between: their sum gives the ideal speed-up and the host's work in a cycle.
The second counts answers that differ from plain decoding; it goes on where it was stopped.
"""

import argparse
import csv
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
from exactness import check_exactness
from matplotlib.axes import Axes
from vllm_peer import Peer
from ways import ALONE, DFLASH, DRAFTED, ENGINE, LOOP, OURS, PLAIN, all_ways, start_vllm, stop_vllm

from drafter.evaluation.parts import Parts
from drafter.evaluation.race import race
from drafter.evaluation.report import Picture
from drafter.evaluation.suites import evenly, load_suite
from drafter.export.record import hardware, provenance
from drafter.files import write_json
from drafter.machine.precision import choose
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

PLACES = ("drafter", "out", "vllm")  # folders of one machine: no part of a record


@dataclass(frozen=True)
class Result:
    """A way of decoding; `tokens` and `calls` are behind the first token of each answer, over all rows.

    Attributes:
        speedup: over transformers' generate; `over_loop` over our loop without drafts.
        ideal, share_of_ideal, host_ms: of ours alone. `host_ms` is a cycle less its passes, at batch 1.
    """

    way: str
    device: str
    dtype: str
    batch_size: int
    tokens: int
    tokens_per_call: float
    tokens_per_second: float
    speedup: float
    over_loop: float
    ideal: float | None = None
    share_of_ideal: float | None = None
    host_ms: float | None = None
    plain_ms: float | None = None
    verify_ms: float | None = None
    draft_ms: float | None = None


def compare(
    options: argparse.Namespace,
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    peers: dict[str, Peer],
    size: int,
    suites: Sequence[str],
) -> Iterator[Result]:
    length = options.draft_length or drafter.block_size - 1
    prompts = [verifier.chat_ids(prompt) for prompt in suites]
    rounds = [prompts[at : at + size] for at in range(0, len(prompts), size)]
    ways = all_ways(options.drafter, verifier, drafter, length, peers)
    ways = {name: way for name, way in ways.items() if size == 1 or name not in ALONE}
    context = sum(map(len, prompts)) // len(prompts) + options.max_new_tokens // 2
    parts = Parts(verifier, drafter, min(size, len(prompts)), context, [1 + length], [length])
    found = race(ways, rounds, options.max_new_tokens, options.repeats, verifier.device, parts.measure)
    for name, one in found.items():
        rate = one.tokens / one.seconds
        result = Result(
            way=name,
            device=verifier.device.type,
            dtype=str(verifier.dtype).removeprefix("torch."),
            batch_size=size,
            tokens=one.tokens,
            tokens_per_call=one.tokens / one.verifier_calls,
            tokens_per_second=rate,
            speedup=found[PLAIN].seconds_per_token * rate,
            over_loop=found[LOOP].seconds_per_token * rate,
        )
        if name == OURS:
            ideal = parts.ideal(one.tokens_per_cycle, length)
            result = dataclasses.replace(
                result,
                ideal=ideal,
                share_of_ideal=result.over_loop / ideal,
                host_ms=1e3 * (one.seconds / one.cycles.count - parts.cycle(length)) if size == 1 else None,
                plain_ms=1e3 * parts.verify(1),
                verify_ms=1e3 * parts.verify(1 + length),
                draft_ms=1e3 * parts.draft(length),
            )
        yield result


def show(results: Sequence[Result]) -> str:
    """A Markdown table, and what the goals ask for."""
    lines = [
        "| device | dtype | batch | way | tokens/s | tokens/call | over generate | over our loop |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        lines.append(
            f"| {one.device} | {one.dtype} | {one.batch_size} | {one.way} | {one.tokens_per_second:.1f} "
            f"| {one.tokens_per_call:.2f} | {one.speedup:.2f} | {one.over_loop:.2f} |"
        )
    lines.append("")
    for one in (one for one in results if one.way == OURS):
        beside = {r.way: r for r in results if (r.device, r.batch_size) == (one.device, one.batch_size)}
        text = (
            f"{one.device}, batch {one.batch_size}: plain pass {one.plain_ms:.2f} ms, verify {one.verify_ms:.2f}, "
            f"draft {one.draft_ms:.2f}; ideal speed-up {one.ideal:.2f}, share of it {one.share_of_ideal:.2f}"
        )
        if one.host_ms is not None:
            text += f"; host {one.host_ms:.2f} ms a cycle"
        if DFLASH in beside:
            text += f"; {one.tokens_per_second / beside[DFLASH].tokens_per_second:.2f} times transformers' DFlash"
        single = [r for r in results if (r.way, r.device, r.batch_size) == (OURS, one.device, 1)]
        for engine, mine in ((ENGINE, LOOP), (DRAFTED, OURS)):
            if engine in beside:
                text += (
                    f"; {mine}: {beside[mine].tokens_per_second / beside[engine].tokens_per_second:.2f} times {engine}"
                )
        if one.batch_size > 1 and single:
            text += f"; {one.tokens_per_second / single[0].tokens_per_second:.2f} times the throughput of batch 1"
        lines.append(text)
    return "\n".join(lines)


def picture(results: Sequence[Result]) -> Picture:
    """Tokens per second of each way, a panel per device and batch size."""

    def draw(device: str, size: int, axes: Axes) -> None:
        here = [one for one in results if (one.device, one.batch_size) == (device, size)][::-1]
        bars = axes.barh([one.way for one in here], [one.tokens_per_second for one in here], alpha=0.7)
        axes.bar_label(bars, [f"{one.speedup:.2f}x" for one in here], padding=3)
        axes.set(xlabel="tokens per second", title=f"{device}, {here[0].dtype}, batch {size}")
        axes.margins(x=0.15)

    panels = [partial(draw, *panel) for panel in sorted({(one.device, one.batch_size) for one in results})]
    return Picture("decoding", "tokens per second of each way", panels)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drafter", metavar="DRAFTER")
    parser.add_argument("--verifier", required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory for what is written")
    parser.add_argument("--suites", nargs="+", default=["humaneval", "mt_bench"])
    parser.add_argument("--prompts", type=int, help="of each suite; default: 4, with --exactness 80")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--vllm", metavar="PYTHON", help="of the environment that has vLLM, a peer in the same run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="auto", help="of the comparison: auto, float32, bfloat16")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--draft-length", type=int, help="default: the trained number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--exactness", action="store_true")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="with --exactness")
    parser.add_argument("--batch-size", type=int, default=16, help="with --exactness")
    parser.add_argument("--bound", type=float, default=0.5, help="with --exactness: margin that excuses half precision")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.exactness:
        check_exactness(options)
        return
    suites = [one["prompt"] for name in options.suites for one in evenly(load_suite(name), options.prompts or 4)]
    results: list[Result] = []
    for device in options.devices:
        dtype = choose(options.dtype, device)
        verifier = Verifier.load(options.verifier, dtype, device, options.attention, options.compile)
        drafter = BlockDiffusionDrafter.from_pretrained(options.drafter, dtype=dtype, device=device)
        peers = start_vllm(options, verifier, drafter)
        try:
            for size in options.batch_sizes:
                results += compare(options, verifier, drafter, peers, size, suites)
        finally:
            stop_vllm(peers)
    print(
        hardware(options.devices[-1]), f"torch {torch.__version__}, transformers {transformers.__version__}", sep="; "
    )
    print(show(results))
    rows = [dataclasses.asdict(one) for one in results]
    with (options.out / "decoding.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    picture(results).save(options.out)
    settings = {name: value for name, value in vars(options).items() if name not in PLACES}
    found = {"results": rows, "hardware": hardware(options.devices[-1]), "settings": settings}
    write_json(options.out / "decoding.json", {**found, "provenance": provenance()})


if __name__ == "__main__":
    main()
