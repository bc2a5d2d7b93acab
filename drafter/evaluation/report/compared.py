"""The report of a comparison: the gain in a sentence, a picture, suite by suite."""

import math
from typing import Any

from matplotlib.axes import Axes

from drafter.evaluation.report.page import Page
from drafter.evaluation.report.picture import Picture, ink

METHOD = (
    "Gains are in tokens per cycle, over B's. Intervals hold 95 % of a paired bootstrap: each draw takes the same "
    "prompts of both and, where there are several, the same seeds. Of one seed the interval is over prompts alone, and "
    "the gain is a hint: another run may say otherwise."
)


def sentence(found: dict[str, Any]) -> str:
    """What was found, in one line."""
    one, (ours, theirs) = found["average_gain"], found["drafters"]
    said = f"{ours}: {_percent(one)} tokens per cycle over {theirs}, averaged over {len(found['suites'])} suites"
    if one["hint"]:
        return f"{said}; one seed: a hint"
    return f"{said}; {'above 0' if one['above_zero'] else 'below 0' if one['high'] < 0 else 'not settled'}"


def lines(found: dict[str, Any]) -> list[dict[str, str]]:
    """A line of the table for each suite."""
    return [
        {"suite": suite, "A": _number(one["tokens_per_cycle"]), "B": _number(one["other"])}
        | {"gain": _percent(one["gain"]), "gain in accepted": _percent(one["accepted_gain"])}
        | {"seed by seed": ", ".join(f"{gain:+.1%}" for gain in one["gains"])}
        for suite, one in found["suites"].items()
    ]


def comparison_page(found: dict[str, Any]) -> Page:
    """A page of what `drafter compare` found."""
    page = Page(f"Comparison: {found['drafters'][0]} and {found['drafters'][1]}")
    page.lead(f"{sentence(found)}.")
    page.picture(_picture(found))
    page.heading("Suites")
    rows = lines(found)
    page.table(list(rows[0]), [list(row.values()) for row in rows])
    page.heading("How this was made")
    page.text(METHOD)
    facts = {"A": found["drafters"][0], "B": found["drafters"][1], "verifier": found["verifier"]}
    page.table(["fact", "value"], [*facts.items(), ("seeds", str(found["seeds"]))])
    return page


def _picture(found: dict[str, Any]) -> Picture:
    suites = found["suites"]

    def draw(axes: Axes) -> None:
        for place, one in enumerate(suites.values()):
            gain = one["gain"]
            axes.hlines(place, 100 * gain["low"], 100 * gain["high"], color="tab:blue")
            axes.plot(100 * gain["value"], place, "o", color="tab:blue")
            if found["seeds"] > 1:
                axes.plot([100 * each for each in one["gains"]], [place] * len(one["gains"]), "|", color=ink())
        axes.axvline(0, color="gray", linewidth=1)
        axes.set(yticks=range(len(suites)), yticklabels=list(suites), xlabel="gain of A over B, %")
        axes.invert_yaxis()

    return Picture("gain", "gain in tokens per cycle of A over B, with intervals", [draw], 1.2 + 0.4 * len(suites))


def _number(one: dict[str, float]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _percent(one: dict[str, float]) -> str:
    if not all(math.isfinite(one[name]) for name in ("value", "low", "high")):
        return "not defined: B accepts nothing"
    return f"{one['value']:+.1%} [{one['low']:+.1%}, {one['high']:+.1%}]"
