"""Pictures of an evaluation, from its record."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from drafter.evaluation.report.picture import Picture, ink

MAIN, SECOND = "tab:blue", "tab:orange"


def headline(suites: dict[str, dict[str, Any]]) -> Picture:
    """Tokens per cycle of each suite, with intervals over prompts."""

    def draw(axes: Axes) -> None:
        for place, one in enumerate(suites.values()):
            axes.barh(place, one["tokens_per_cycle"], color=MAIN, alpha=0.6)
            if one["low"] is not None:
                axes.hlines(place, one["low"], one["high"], color=ink())
        axes.set(yticks=range(len(suites)), yticklabels=list(suites), xlabel="tokens per cycle; 1 is plain decoding")
        axes.invert_yaxis()
        axes.set_xlim(left=1)

    return Picture(
        "tokens_per_cycle", "tokens per cycle of each suite, with intervals", [draw], 1.2 + 0.4 * len(suites)
    )


def of_suite(
    name: str, figures: dict[str, Any], slots: dict[str, Any] | None, pays: Sequence[dict[str, Any]]
) -> Picture:
    """What each slot keeps and where cycles end; calibration, classes, entropy and ways of drafting if measured."""
    panels = [partial(_acceptance, figures["accepted_when_reached"]), partial(_ends, figures)]
    if slots:
        panels += [
            partial(_calibration, slots["calibration"]),
            partial(_shares, slots["by_class"], "class of the verifier's token"),
            partial(_shares, slots["by_verifier_entropy"], "entropy of the verifier's law, nats"),
        ]
    if pays:
        panels.append(partial(_pays, pays))
    return Picture(f"suite_{name}", f"{name}: slots, rejections and what they depend on", panels)


def _acceptance(shares: Sequence[float | None], axes: Axes) -> None:
    known = [(slot, share) for slot, share in enumerate(shares, 1) if share is not None]
    axes.plot([slot for slot, _ in known], [share for _, share in known], marker="o", color=MAIN, label="kept")
    hazard = [1 - share for _, share in known]
    axes.plot([slot for slot, _ in known], hazard, marker="o", color=SECOND, label="hazard, 1 - kept")
    axes.set(title="acceptance per slot", xlabel="slot", ylabel="of the cycles that reach it", ylim=(0, 1))
    axes.set_xticks(range(1, len(shares) + 1))
    axes.legend(fontsize=8)


def _ends(figures: dict[str, Any], axes: Axes) -> None:
    """Cycles by their first rejection: at a slot, or nowhere."""
    kept = [1.0, *figures["kept_share"]]
    ends = [before - after for before, after in pairwise(kept)]
    names = [*(str(slot) for slot in range(1, len(kept))), "none"]
    axes.bar(names, [*ends, kept[-1]], color=[*[SECOND] * len(ends), MAIN], alpha=0.7)
    axes.set(title="where cycles end", xlabel="slot of the first draft not kept", ylabel="share of cycles")


def _calibration(table: Sequence[dict[str, float]], axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=ink(), linewidth=0.5, linestyle="--")
    most = max((row["count"] for row in table), default=1)
    sizes = [15 + 150 * row["count"] / most for row in table]
    axes.plot([row["confidence"] for row in table], [row["hits"] for row in table], color=MAIN, linewidth=1)
    axes.scatter([row["confidence"] for row in table], [row["hits"] for row in table], s=sizes, color=MAIN, alpha=0.6)
    axes.set(
        title="calibration", xlabel="the drafter's confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1)
    )


def _shares(groups: dict[str, dict[str, float]], what: str, axes: Axes) -> None:
    names = [f"{name}\n{one['count']}" for name, one in groups.items()]
    axes.bar(names, [one["kept"] for one in groups.values()], color=MAIN, alpha=0.7)
    axes.set(title=f"acceptance by {what.split(' of ')[0]}", xlabel=f"{what}; slots", ylabel="kept, of those reached")
    axes.set_ylim(0, 1)


def _pays(ways: Sequence[dict[str, Any]], axes: Axes) -> None:
    ways = sorted(ways, key=lambda one: ("tree" in one["drafts"], one["tokens_per_cycle"]))
    colors = [SECOND if "tree" in one["drafts"] else MAIN for one in ways]
    axes.barh(range(len(ways)), [one["ideal"] for one in ways], color=colors, alpha=0.7)
    axes.axvline(1, color=ink(), linewidth=0.8)
    axes.set(yticks=range(len(ways)), yticklabels=[one["drafts"] for one in ways], title="which drafts pay here")
    axes.set_xlabel("speed over plain decoding, passes alone")
    axes.invert_yaxis()
