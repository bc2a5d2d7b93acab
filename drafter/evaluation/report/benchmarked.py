"""The report of a benchmark: the best speed-up in a sentence, a picture for each suite, every cell."""

import math
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from drafter.evaluation import measured
from drafter.evaluation.grid import COLUMNS, Cell
from drafter.evaluation.report.page import Page
from drafter.evaluation.report.picture import Picture, ink

METHOD = (
    "All ways take turns in one process; the median of the repetitions counts. Speed-ups are over draft length 0, the "
    "same loop without drafts. The ideal is the speed-up if a cycle were its passes alone, tokens per cycle x plain "
    "pass / (verifying pass + draft), all measured in the same run; of trees and of lengths that change there is none. "
    "Host: a cycle's time less its passes, at batch 1."
)


def benchmark_page(cells: Sequence[Cell], facts: dict[str, str]) -> Page:
    """The page of `drafter benchmark`.

    Args:
        facts: what was asked of what, where.
    """
    page = Page(f"Speed: {facts['drafter']}")
    page.lead(finding(cells))
    page.picture(speedups(cells))
    page.heading("Every cell")
    page.table(*measured.cells([cell.figures() for cell in cells], COLUMNS))
    page.heading("How this was made")
    page.text(METHOD)
    page.table(["fact", "value"], list(facts.items()))
    return page


def finding(cells: Sequence[Cell]) -> str:
    """What pays most, or that nothing does."""
    drafted = [cell for cell in cells if cell.drafts != "0"]
    if not drafted:
        return "Nothing was drafted: these are figures of plain decoding."
    best = max(drafted, key=lambda cell: cell.speedup)
    where = f"{best.suite}, temperature {best.temperature:g}, batch {best.batch_size}, drafts {best.drafts}"
    speed = f"{best.speedup:.2f} times the speed of the same loop without drafts"
    return f"Nothing pays here; the best is {speed}: {where}." if best.speedup <= 1 else f"At best {speed}: {where}."


def speedups(cells: Sequence[Cell]) -> Picture:
    """Speed-up by way of drafting, a panel per suite; dashed, what the passes alone would give."""
    suites = dict.fromkeys(cell.suite for cell in cells)
    panels = [partial(_draw, suite, [cell for cell in cells if cell.suite == suite]) for suite in suites]
    return Picture("benchmark", "speed-up over draft length 0 by way of drafting; dashed, the passes alone", panels)


def _draw(suite: str, cells: Sequence[Cell], axes: Axes) -> None:
    groups: dict[tuple[float, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.temperature, cell.batch_size), []).append(cell)
    for (temperature, size), group in groups.items():
        label = f"temperature {temperature:g}, batch {size}"
        places = range(len(group))
        axes.set_xticks(places, [cell.drafts for cell in group])
        (line,) = axes.plot(places, [cell.speedup for cell in group], marker="o", label=label)
        ideals = [1.0 if cell.drafts == "0" else cell.ideal or math.nan for cell in group]
        axes.plot(places, ideals, linestyle="--", color=line.get_color(), alpha=0.5)
    axes.axhline(1, color=ink(), linewidth=0.5)
    axes.set(xlabel="drafts", ylabel="speed-up over draft length 0", title=suite)
    axes.legend(fontsize=8)
