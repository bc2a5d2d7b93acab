"""The map as a picture: quality and distance against tokens per cycle."""

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from drafter.evaluation.frontier.points import Point
from drafter.evaluation.frontier.ways import CONTROL, EXACT, STATIC
from drafter.evaluation.report.picture import Picture, ink

COLOURS = {EXACT: "tab:green", CONTROL: "tab:gray"}  # by family; relaxed rules by their own
RULES = {
    STATIC: "tab:blue",
    "variation_budget": "tab:cyan",
    "dynamic_ensemble": "tab:red",
    "lenient": "tab:orange",
    "typical_acceptance": "tab:purple",
}

VARIATION = "total variation per token"


def map_of(points: Sequence[Point], reward: str) -> Picture:
    """Every point with its 95 % intervals and its number in the table, and a line through the static ensembles."""
    panels = [partial(_draw, points, name, label) for name, label in (("reward", reward), ("variation", VARIATION))]
    return Picture("frontier", f"{reward} and distance to the verifier over tokens per cycle, way by way", panels, 4.2)


def _draw(points: Sequence[Point], name: str, label: str, axes: Axes) -> None:
    line = sorted((point.tokens_per_cycle.value, getattr(point, name).value) for point in points if point.way.static)
    axes.plot([across for across, _ in line], [up for _, up in line], color=RULES[STATIC], alpha=0.4)
    told: set[str] = set()
    for number, point in enumerate(points, 1):
        kind, colour = _kind(point)
        across, up = point.tokens_per_cycle, getattr(point, name)
        axes.hlines(up.value, across.low, across.high, color=colour, linewidth=0.6)
        axes.vlines(across.value, up.low, up.high, color=colour, linewidth=0.6)
        axes.plot(across.value, up.value, "o", color=colour, markersize=4, label=None if kind in told else kind)
        axes.annotate(
            str(number), (across.value, up.value), (3, 3), textcoords="offset points", fontsize=8, color=ink()
        )
        told.add(kind)
    axes.set(xlabel="tokens per cycle", ylabel=label)
    if name == "reward":
        axes.legend(fontsize=8)


def _kind(point: Point) -> tuple[str, str]:
    """What the legend calls a point, and its colour."""
    rule, family = point.way.rule.partition(":")[0], point.way.family
    if family in COLOURS:
        return family, COLOURS[family]
    return rule.replace("_", " "), RULES.get(rule, ink())
