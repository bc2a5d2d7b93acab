"""Pictures of an ablation, from its tables."""

from collections.abc import Mapping
from functools import partial

from matplotlib.axes import Axes

from drafter.ablation.tables import Tables
from drafter.evaluation.report.picture import Picture, ink
from drafter.evaluation.statistics import Comparison, by_seed

NORM = "gradient_norm/"


def tokens_per_cycle(tables: Tables, comparisons: Mapping[str, Mapping[str, Comparison]]) -> Picture:
    """Per suite and arm, with intervals over seeds and prompts; a dot is a seed."""

    def draw(suite: str, axes: Axes) -> None:
        arms = comparisons[suite]
        for place, (arm, found) in enumerate(arms.items()):
            one = found.tokens_per_cycle
            axes.barh(place, one.value, color=_color(tables, arm), alpha=0.6)
            axes.hlines(place, one.low, one.high, color=ink(), linewidth=1)
            dots = by_seed(tables.counts[suite][arm])
            axes.plot(dots, [place] * len(dots), ".", color=ink(), markersize=4)
        axes.set(yticks=range(len(arms)), yticklabels=list(arms), title=suite)
        axes.set_xlabel("tokens per cycle; 1 is plain decoding")
        axes.invert_yaxis()
        axes.set_xlim(left=1)

    panels = [partial(draw, suite) for suite in comparisons]
    return Picture("tokens_per_cycle", "tokens per cycle, per suite and arm", panels)


def gains(comparisons: Mapping[str, Mapping[str, Comparison]]) -> Picture:
    """Relative gains over the baseline, in tokens and in accepted tokens per cycle, paired; a stroke is a seed."""

    def draw(suite: str, axes: Axes) -> None:
        arms = comparisons[suite]
        for shift, name in ((-0.15, "tokens"), (0.15, "accepted tokens")):
            for place, found in enumerate(arms.values()):
                one = found.gain if name == "tokens" else found.accepted_gain
                label = f"{name} per cycle" if place == 0 else None
                color = "tab:blue" if name == "tokens" else "tab:orange"
                axes.hlines(place + shift, 100 * one.low, 100 * one.high, color=color)
                axes.plot(100 * one.value, place + shift, "o", color=color, markersize=4, label=label)
                if name == "tokens" and not one.hint:
                    axes.plot([100 * gain for gain in found.gains], [place + shift] * one.seeds, "|", color=ink())
        axes.axvline(0, color="gray", linewidth=1)
        axes.set(yticks=range(len(arms)), yticklabels=list(arms), xlabel="gain over the baseline, %", title=suite)
        axes.invert_yaxis()
        axes.legend(fontsize=8)

    return Picture(
        "gains", "gains over the baseline with paired intervals", [partial(draw, one) for one in comparisons]
    )


def learning_curves(tables: Tables) -> Picture:
    """Tokens per cycle on validation rows over steps: the mean over seeds, each seed thin behind it."""

    def draw(axes: Axes) -> None:
        for arm in tables.seeds:
            seeds = tables.curves.get((arm, "tokens_per_cycle_held_out"), {})
            for steps, values in seeds.values():
                axes.plot(steps, values, color=_color(tables, arm), linewidth=0.5, alpha=0.5)
            axes.plot(*mean_curve(seeds), color=_color(tables, arm), label=arm, marker="." if len(seeds) else None)
        axes.set(xlabel="step", ylabel="tokens per cycle, validation rows", title="learning curves")
        axes.legend(fontsize=8)

    return Picture("learning_curves", "tokens per cycle on validation rows over steps", [draw], height=4.0)


def slots(tables: Tables) -> Picture:
    """Per suite: of the cycles that reached a slot, the share that kept it; and where cycles ended."""

    def draw(suite: str, what: str, axes: Axes) -> None:
        longest = 0
        for arm, (reached, kept) in tables.slots[suite].items():
            shares = [a / b if b else float("nan") for a, b in zip(kept, reached, strict=True)]
            values = shares if what == "kept" else first_rejections(tables, suite, arm)
            axes.plot(range(1, len(kept) + 1), values, marker=".", color=_color(tables, arm), label=arm)
            longest = max(longest, len(kept))
        if what == "kept":
            axes.set(ylabel="kept, of those reached", title=f"{suite}: acceptance per slot", ylim=(0, 1))
        else:
            axes.set(ylabel="share of cycles", title=f"{suite}: first rejection")
        axes.set(xlabel="slot", xticks=range(1, longest + 1))
        axes.legend(fontsize=7)

    panels = [partial(draw, suite, what) for suite in tables.slots for what in ("kept", "ends")]
    return Picture("slots", "acceptance and first rejections per slot", panels)


def gradient_norms(tables: Tables) -> Picture:
    """Of each term, without its coefficient, in the slots' hidden states."""
    terms = sorted({metric for _, metric in tables.curves if metric.startswith(NORM)})

    def draw(term: str, axes: Axes) -> None:
        for arm in tables.seeds:
            seeds = tables.curves.get((arm, term), {})
            if seeds:
                axes.plot(*mean_curve(seeds), color=_color(tables, arm), label=arm)
        axes.set(xlabel="step", ylabel="gradient norm", title=term.removeprefix(NORM), yscale="log")
        axes.legend(fontsize=8)

    return Picture("gradient_norms", "gradient norm of each term over steps", [partial(draw, one) for one in terms])


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
