"""The map as a picture: quality and distance against tokens per cycle."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot

from drafter.evaluation.frontier.points import Point
from drafter.evaluation.frontier.ways import CONTROL, EXACT, STATIC

COLOURS = {EXACT: "tab:green", CONTROL: "tab:grey"}
RULES = {
    STATIC: "tab:blue",
    "variation_budget": "tab:cyan",
    "dynamic_ensemble": "tab:red",
    "lenient": "tab:orange",
    "typical_acceptance": "tab:purple",
}


def plot(points: Sequence[Point], path: Path, reward: str = "reward") -> None:
    """Draw every point with its 95 % intervals, and a line through the static ensembles."""
    figure, panels = pyplot.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    for axes, name, label in zip(panels, ("reward", "variation"), (reward, "total variation per token"), strict=True):
        line = sorted(
            (point.tokens_per_cycle.value, getattr(point, name).value) for point in points if is_static(point)
        )
        axes.plot(*zip(*line, strict=True) if line else ([], []), color=RULES[STATIC], alpha=0.4)
        for point in points:
            across, up = point.tokens_per_cycle, getattr(point, name)
            colour = RULES.get(point.way.rule.partition(":")[0]) if point.way.family not in COLOURS else None
            axes.errorbar(
                across.value,
                up.value,
                xerr=[[max(0.0, across.value - across.low)], [max(0.0, across.high - across.value)]],
                yerr=[[max(0.0, up.value - up.low)], [max(0.0, up.high - up.value)]],
                marker="o",
                color=colour or COLOURS.get(point.way.family, "black"),
                elinewidth=0.6,
            )
            axes.annotate(point.way.name, (across.value, up.value), (4, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel="tokens per cycle", ylabel=label)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def is_static(point: Point) -> bool:
    """Whether a point lies on the line of static ensembles; speculative sampling is its strict end."""
    return point.way.rule.partition(":")[0] == STATIC or (
        point.way.rule == "speculative_sampling" and point.way.family == EXACT
    )
