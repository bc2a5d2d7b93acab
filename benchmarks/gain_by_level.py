"""What the three losses gain over uniform cross-entropy, against where uniform stands: every study in one picture.

    python benchmarks/gain_by_level.py          # docs/results/*/ → docs/results/gain_by_level.png, and a table

A line is a training seen at its validations, on the rows that choose; a point is a suite at the end of one, on prompts
that choose nothing, with its interval over seeds and prompts. The box is what arXiv:2606.11552 reports: drafters of 2.4
to 2.9 tokens per cycle, +20.9 to +43.9 % on average over suites.
"""

import csv
import statistics
from functools import cache
from pathlib import Path
from typing import NamedTuple

from arms_by_draft import said
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from drafter.ablation import report, tables
from drafter.evaluation.report import Picture
from drafter.evaluation.statistics import Estimate

RESULTS = Path(__file__).parent.parent / "docs/results"
FULL = {
    "losses": "full_as_printed",
    "losses_qwen3": "full",
    "small_block16": "full",
    "small_block16_whole": "full_faster",
    "small_block16_long": "full",
    "small_block16_rivals": "full",
    "small_block8": "full",
}
WALK = "tokens_per_cycle_held_out"
PAPER = (2.4, 2.9), (20.9, 43.9)


@cache
def read(study: str) -> tables.Tables:
    return tables.read(RESULTS / study)


class Point(NamedTuple):
    """Uniform's tokens per cycle, and the gain of the full objective."""

    level: float
    gain: Estimate


def ends(study: str) -> dict[str, Point]:
    """Suite → where its training ended."""
    found = report.compare_all(read(study))
    return {
        suite: Point(arms["uniform"].tokens_per_cycle.value, arms[FULL[study]].gain) for suite, arms in found.items()
    }


def average(study: str) -> Point:
    """Of all suites."""
    level = statistics.fmean(one.level for one in ends(study).values())
    return Point(level, report.average(read(study), FULL[study]))


def on_the_way(study: str) -> list[tuple[float, float]]:
    """Uniform's tokens per cycle and the gain at each validation, means over the seeds that both arms have."""
    curves = read(study).curves
    one, two = curves["uniform", WALK], curves[FULL[study], WALK]
    seeds = [seed for seed in one if seed in two]
    steps = set.intersection(*(set(runs[seed][0]) for runs in (one, two) for seed in seeds))
    both = [[dict(zip(*runs[seed], strict=True)) for seed in seeds] for runs in (one, two)]
    return [_gain(*([values[step] for values in arm] for arm in both)) for step in sorted(steps)]


def _gain(uniform: list[float], full: list[float]) -> tuple[float, float]:
    level = statistics.fmean(uniform)
    return level, statistics.fmean(full) / level - 1


def on_a_gpu() -> list[tuple[float, float]]:
    """The same of block16, whose curves came back from a GPU without suites."""
    with (RESULTS / "block16/curves.csv").open() as file:
        records = [one for one in csv.DictReader(file) if one["study"] == "block16"]
    of = {(one["arm"], one["seed"], int(one["step"])): float(one[WALK]) for one in records}
    found = []
    for step in sorted({step for _, _, step in of}):
        seeds = [seed for arm, seed, at in of if (arm, at) == ("uniform", step) and ("full", seed, step) in of]
        found.append(_gain(*([of[arm, seed, step] for seed in seeds] for arm in ("uniform", "full"))))
    return found


def picture() -> Picture:
    def draw(axes: Axes) -> None:
        (left, right), (low, high) = PAPER
        axes.add_patch(Rectangle((left, low), right - left, high - low, alpha=0.2))
        axes.annotate("arXiv:2606.11552", (right, low), textcoords="offset points", xytext=(3, 3))
        lines = {study: on_the_way(study) for study in FULL} | {"block16 (GPU)": on_a_gpu()}
        for study, way in lines.items():
            (line,) = axes.plot([level for level, _ in way], [100 * gain for _, gain in way], alpha=0.6, label=study)
            for point in ends(study).values() if study in FULL else ():
                value, low, high = (100 * one for one in (point.gain.value, point.gain.low, point.gain.high))
                axes.errorbar(point.level, value, [[value - low], [high - value]], fmt="o", color=line.get_color())
        axes.set(xlabel="tokens per cycle of uniform", ylabel="gain of the full objective, %")
        axes.legend()

    text = "gain of the three losses against uniform's tokens per cycle: lines at validations, points on suites"
    return Picture("gain_by_level", text, [draw], height=5.0)


def table() -> str:
    lines = ["| study | uniform, average of its suites | gain of the full objective |", "|---|---|---|"]
    for study in FULL:
        point = average(study)
        lines.append(f"| [{study}]({study}/README.md) | {point.level:.2f} | {said(point.gain)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    picture().save(RESULTS)
    print(table())
