"""Pictures of an ablation, from its tables."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from drafter.ablation.tables import Tables
from drafter.evaluation.statistics import Comparison, by_seed

NORM = "gradient_norm/"


def draw_all(tables: Tables, comparisons: Mapping[str, Mapping[str, Comparison]], directory: Path) -> None:
    """Write every picture of the report.

    Args:
        comparisons: suite → arm → against the baseline.
    """
    tokens_per_cycle(tables, comparisons, directory / "tokens_per_cycle.png")
    gains(comparisons, directory / "gains.png")
    learning_curves(tables, directory / "learning_curves.png")
    slots(tables, directory / "slots.png")
    gradient_norms(tables, directory / "gradient_norms.png")


def tokens_per_cycle(tables: Tables, comparisons: Mapping[str, Mapping[str, Comparison]], path: Path) -> None:
    """Per suite and arm, with intervals over seeds and prompts; a dot is a seed."""
    figure, panels = _panels(len(comparisons))
    for axes, (suite, arms) in zip(panels, comparisons.items(), strict=True):
        for place, (arm, found) in enumerate(arms.items()):
            one = found.tokens_per_cycle
            axes.barh(place, one.value, color=_color(tables, arm), alpha=0.6)
            axes.hlines(place, one.low, one.high, color="black", linewidth=1)
            dots = by_seed(tables.counts[suite][arm])
            axes.plot(dots, [place] * len(dots), ".", color="black", markersize=4)
        axes.set(
            yticks=range(len(arms)), yticklabels=list(arms), xlabel="tokens per cycle; 1 is plain decoding", title=suite
        )
        axes.invert_yaxis()
        axes.set_xlim(left=1)
    _save(figure, path)


def gains(comparisons: Mapping[str, Mapping[str, Comparison]], path: Path) -> None:
    """Relative gains over the baseline, in tokens and in accepted tokens per cycle, paired; a stroke is a seed."""
    figure, panels = _panels(len(comparisons))
    for axes, (suite, arms) in zip(panels, comparisons.items(), strict=True):
        for shift, name in ((-0.15, "tokens"), (0.15, "accepted tokens")):
            for place, found in enumerate(arms.values()):
                one = found.gain if name == "tokens" else found.accepted_gain
                label = f"{name} per cycle" if place == 0 else None
                color = "tab:blue" if name == "tokens" else "tab:orange"
                axes.hlines(place + shift, 100 * one.low, 100 * one.high, color=color)
                axes.plot(100 * one.value, place + shift, "o", color=color, markersize=4, label=label)
                if name == "tokens" and not one.hint:
                    axes.plot([100 * gain for gain in found.gains], [place + shift] * one.seeds, "|", color="black")
        axes.axvline(0, color="gray", linewidth=1)
        axes.set(yticks=range(len(arms)), yticklabels=list(arms), xlabel="gain over the baseline, %", title=suite)
        axes.invert_yaxis()
    panels[0].legend(fontsize=8)
    _save(figure, path)


def learning_curves(tables: Tables, path: Path) -> None:
    """Tokens per cycle on validation rows over steps: the mean over seeds, each seed thin behind it."""
    figure, (axes,) = _panels(1, height=4.5)
    for arm in tables.seeds:
        seeds = tables.curves.get((arm, "tokens_per_cycle_held_out"), {})
        for steps, values in seeds.values():
            axes.plot(steps, values, color=_color(tables, arm), linewidth=0.5, alpha=0.5)
        axes.plot(*mean_curve(seeds), color=_color(tables, arm), label=arm, marker="." if len(seeds) else None)
    axes.set(xlabel="step", ylabel="tokens per cycle, validation rows", title="learning curves")
    axes.legend(fontsize=8)
    _save(figure, path)


def slots(tables: Tables, path: Path) -> None:
    """Per suite: of the cycles that reached a slot, the share that kept it; and where cycles ended."""
    figure, panels = _panels(2 * len(tables.slots), columns=2)
    for (left, right), (suite, arms) in zip(
        zip(panels[::2], panels[1::2], strict=True), tables.slots.items(), strict=True
    ):
        for arm, (reached, kept) in arms.items():
            numbers = range(1, len(kept) + 1)
            shares = [a / b if b else float("nan") for a, b in zip(kept, reached, strict=True)]
            left.plot(numbers, shares, marker=".", color=_color(tables, arm), label=arm)
            right.plot(numbers, first_rejections(tables, suite, arm), marker=".", color=_color(tables, arm), label=arm)
        left.set(xlabel="slot", ylabel="kept, of those reached", title=f"{suite}: acceptance per slot", ylim=(0, 1))
        right.set(xlabel="slot", ylabel="share of cycles", title=f"{suite}: first rejection")
        for axes in (left, right):
            axes.set_xticks(list(numbers))
    panels[0].legend(fontsize=8)
    _save(figure, path)


def gradient_norms(tables: Tables, path: Path) -> None:
    """Of each term, without its coefficient, in the slots' hidden states."""
    terms = sorted({metric for _, metric in tables.curves if metric.startswith(NORM)})
    figure, panels = _panels(max(1, len(terms)))
    for axes, term in zip(panels, terms, strict=False):
        for arm in tables.seeds:
            seeds = tables.curves.get((arm, term), {})
            if seeds:
                axes.plot(*mean_curve(seeds), color=_color(tables, arm), label=arm)
        axes.set(xlabel="step", ylabel="gradient norm", title=term.removeprefix(NORM), yscale="log")
        axes.legend(fontsize=8)
    _save(figure, path)


def mean_curve(seeds: Mapping[int, tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """Mean over the seeds at the steps that all of them have."""
    points = [dict(zip(steps, values, strict=True)) for steps, values in seeds.values()]
    steps = sorted(set.intersection(*(set(one) for one in points))) if points else []
    return steps, [sum(one[step] for one in points) / len(points) for step in steps]


def first_rejections(tables: Tables, suite: str, arm: str) -> list[float]:
    """Per slot, the share of all cycles that kept every slot before it and not this one."""
    reached, kept = tables.slots[suite][arm]
    cycles = max(1.0, float(tables.counts[suite][arm]["cycles"].sum()))
    return [(came - stayed) / cycles for came, stayed in zip(reached, kept, strict=True)]


def _color(tables: Tables, arm: str) -> str:
    return f"C{[one['arm'] for one in tables.arms].index(arm) % 10}"


def _panels(count: int, columns: int = 3, height: float = 3.5) -> tuple[pyplot.Figure, list[Axes]]:
    columns = min(count, columns)
    rows = -(-count // columns)
    size = (max(6.0, 5.0 * columns), height * rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for spare in panels[count:]:
        spare.axis("off")
    return figure, panels[:count]


def _save(figure: pyplot.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
