"""What the block size changes: two studies of one bed, on the arms, seeds and prompts that both have.

    python benchmarks/block_sizes.py docs/results/small_block8 docs/results/small_block16_rivals

The second must have `by_draft.csv` (`benchmarks/arms_by_draft.py`): its drafters are held beside those of shorter
blocks with as many drafts as these have, and with all of their own.
"""

import sys
from collections.abc import Mapping
from csv import DictReader
from pathlib import Path
from statistics import fmean

import torch
from arms_by_draft import FILE, Record, counted, said

from drafter.evaluation.statistics import (
    DRAWS,
    Counts,
    Estimate,
    average_gain,
    by_seed,
    draw,
    interval,
    pair,
    per_cycle,
)


def read(folder: Path, drafts: str | None = None) -> list[Record]:
    """What a study walked: all drafts of a block, or so many."""
    with (folder / (FILE if drafts else "results.csv")).open() as file:
        return [one for one in DictReader(file) if drafts in (None, one.get("drafts"))]


def together(one: list[Record], other: list[Record], arm: str) -> dict[str, tuple[Counts, Counts]]:
    """Suite → what an arm counted in both studies, cut to common seeds."""
    (seeds, mine), (known, others) = counted(one, arm), counted(other, arm)
    return {suite: pair(mine[suite], seeds, others[suite], known) for suite in sorted(mine)}


def difference(arm: dict[str, tuple[Counts, Counts]], baseline: dict[str, tuple[Counts, Counts]]) -> Estimate:
    """The gain of `arm` over `baseline` in the first study less that in the second, averaged over suites."""
    total, value, seeds = torch.zeros(DRAWS, dtype=torch.float64), 0.0, 1
    for number, suite in enumerate(arm, 1):
        seeds, prompts = arm[suite][0]["cycles"].shape
        drawn = draw(seeds, prompts, number=number)
        for sign, mine, other in zip((1, -1), arm[suite], baseline[suite], strict=True):
            total += sign * per_cycle(mine, "emitted", drawn) / per_cycle(other, "emitted", drawn)
            value += sign * fmean(by_seed(mine)) / fmean(by_seed(other))
    return interval(total / len(arm), value / len(arm), seeds)


def level(found: Mapping[str, Counts]) -> float:
    return fmean(fmean(by_seed(counts)) for counts in found.values())


def main() -> None:
    short, long = map(Path, sys.argv[1:3])
    print(report(short, long))


def report(short: Path, long: Path, baseline: str = "uniform") -> str:
    """Levels and gains at both sizes, averaged over suites, arm by arm."""
    own = read(short)
    shorter, longest = (sum(name.startswith("reached_") for name in read(folder)[0]) for folder in (short, long))
    known = {drafts: read(long, f"{drafts} in a row") for drafts in (shorter, longest)}
    there = {one["arm"] for one in known[longest]}
    common = [arm for arm in dict.fromkeys(one["arm"] for one in own) if arm in there]
    names = ["arm", f"blocks of {shorter + 1}"]
    for drafts in known:
        names += [
            f"blocks of {longest + 1}, {drafts} drafts",
            "the shorter over it",
            f"over `{baseline}`, less its own",
        ]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for arm in common:
        cells = [arm, f"{level(counted(own, arm)[1]):.2f}"]
        for records in known.values():
            mine = together(own, records, arm)
            cells.append(f"{level({suite: counts for suite, (_, counts) in mine.items()}):.2f}")
            cells.append(said(average_gain(mine)))
            cells.append("" if arm == baseline else said(difference(mine, together(own, records, baseline))))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
