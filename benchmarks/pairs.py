"""Ways of decoding in pairs, turn by turn, by two clocks: what a pass takes on a machine that others use, too.

    python benchmarks/pairs.py DRAFTER --verifier smollm2 --json FILE [--batch-size 1] [--rounds 16] [--vllm PYTHON]

Ours in tiles and by our kernels and without both, plain and with drafts, and vLLM (see `vllm_peer.py`), greedy,
bfloat16, one thread each. A round lets every way decode the same prompts, forwards and backwards in turn; ratios are
taken within a round, and told as median and quartiles. A processor's own seconds do not count what others take of it,
the wall's do; neither takes out what they take of its caches and memory.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm_peer import Peer
from ways import DRAFTED, ENGINE, start_vllm, stop_vllm, through_us, through_vllm

from drafter.evaluation.race import Way
from drafter.evaluation.suites import evenly, load_suite
from drafter.export.record import hardware, provenance
from drafter.files import write_json
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

AS_IT_IS, TILED, DRAFTS_AS_IT_IS, DRAFTS_TILED = (
    "ours as it is", "ours in tiles", "ours with drafts, as it is", "ours with drafts, in tiles",
)  # fmt: skip
CLOCKS = ("processor", "wall")
PAIRS = (
    (TILED, AS_IT_IS),
    (DRAFTS_TILED, DRAFTS_AS_IT_IS),
    (DRAFTS_TILED, TILED),
    (AS_IT_IS, ENGINE),
    (TILED, ENGINE),
    (DRAFTS_AS_IT_IS, DRAFTED),
    (DRAFTS_TILED, DRAFTED),
    (DRAFTED, ENGINE),
)


@dataclass
class Turns:
    """A way with the clock of its process, and tokens, wall and processor seconds of its turns, behind the prefill."""

    way: Way
    clock: Callable[[], float]
    tokens: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def take(self, prompts: Sequence[list[int]], limit: int) -> None:
        marks = [(time.perf_counter(), self.clock())]
        for tokens in (1, limit):
            made = self.way(prompts, tokens)
            marks.append((time.perf_counter(), self.clock()))
        before, first, whole = marks
        self.wall.append(whole[0] - 2 * first[0] + before[0])
        self.processor.append(whole[1] - 2 * first[1] + before[1])
        self.tokens.append(sum(len(one.token_ids) - 1 for one in made))

    def rates(self, clock: str) -> list[float]:
        """Tokens per second of each turn; 0 where a turn took no longer than its prefill."""
        return [n / taken if taken > 0 else 0.0 for n, taken in zip(self.tokens, getattr(self, clock), strict=True)]


def ratio(one: Turns, other: Turns, clock: str) -> dict[str, Any]:
    """How many times as fast, turn by turn: median and quartiles."""
    both = zip(one.rates(clock), other.rates(clock), strict=True)
    found = [mine / theirs for mine, theirs in both if mine and theirs]
    if len(found) < 2:
        return {"median": None, "quartiles": None, "pairs": len(found)}
    cuts = statistics.quantiles(found, n=4, method="inclusive")
    return {"median": statistics.median(found), "quartiles": [cuts[0], cuts[2]], "pairs": len(found)}


def all_turns(
    verifiers: Sequence[Verifier], drafter: BlockDiffusionDrafter, peers: dict[str, Peer]
) -> dict[str, Turns]:
    """Every way; `verifiers` are one as it is and one in tiles."""
    found = {}
    for verifier, names in zip(verifiers, ((AS_IT_IS, DRAFTS_AS_IT_IS), (TILED, DRAFTS_TILED)), strict=True):
        for name, model in zip(names, (None, drafter), strict=True):
            found[name] = Turns(through_us(verifier, model, None), time.process_time)
    for name, peer in peers.items():
        found[name] = Turns(through_vllm(peer, verifiers[0].stop_ids), peer.processor_seconds)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    half = torch.bfloat16
    words = ("sdpa", "off"), ("flash_cpu", "on")
    verifiers = [Verifier.load(options.verifier, half, "cpu", *both) for both in words]
    drafter = BlockDiffusionDrafter.from_pretrained(options.drafter, dtype=half)
    given = [one["prompt"] for name in options.suites for one in evenly(load_suite(name), options.rounds)]
    prompts = [verifiers[0].chat_ids(one) for one in given]
    peers = start_vllm(options, verifiers[0], drafter)
    try:
        turns = all_turns(verifiers, drafter, peers)
        for one in turns.values():
            one.way([prompt[:8] for prompt in prompts[: options.batch_size]], 4)  # warm up
        for index in range(options.rounds):
            at = index * options.batch_size
            some = [prompts[(at + row) % len(prompts)] for row in range(options.batch_size)]
            for one in list(turns.values())[:: 1 if index % 2 else -1]:
                one.take(some, options.max_new_tokens)
    finally:
        stop_vllm(peers)
    return {
        "rates": {
            name: {clock: statistics.median(one.rates(clock)) for clock in CLOCKS} for name, one in turns.items()
        },
        "pairs": {
            f"{one} / {other}": {clock: ratio(turns[one], turns[other], clock) for clock in CLOCKS}
            for one, other in PAIRS
            if {one, other} <= turns.keys()
        },
    }


def show(found: dict[str, Any]) -> str:
    """Two Markdown tables."""
    lines = ["| way | tokens per processor second | tokens per second |", "|---|---|---|"]
    lines += [f"| {name} | {one['processor']:.1f} | {one['wall']:.1f} |" for name, one in found["rates"].items()]
    lines += ["", "| pair | by the processor's seconds | by the wall's | pairs |", "|---|---|---|---|"]
    for name, both in found["pairs"].items():
        told = [
            "" if one["median"] is None else "{:.2f} ({:.2f} to {:.2f})".format(one["median"], *one["quartiles"])
            for one in (both[clock] for clock in CLOCKS)
        ]
        lines.append(f"| {name} | {' | '.join(told)} | {both['wall']['pairs']} |")
    return "\n".join(lines)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drafter", metavar="DRAFTER")
    parser.add_argument("--verifier", required=True)
    parser.add_argument("--json", type=Path, required=True, help="the figures; what vLLM says stands beside it")
    parser.add_argument("--suites", nargs="+", default=["humaneval", "mt_bench"])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--vllm", metavar="PYTHON", help="of the environment that has vLLM")
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.threads, options.out, options.batch_sizes = 1, options.json.parent, [options.batch_size]
    options.draft_length = None
    torch.set_num_threads(1)
    found = measure(options)
    print(show(found))
    write_json(options.json, {**found, "hardware": hardware("cpu"), "provenance": provenance()})


if __name__ == "__main__":
    main(sys.argv[1:])
