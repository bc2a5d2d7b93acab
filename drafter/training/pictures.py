"""Pictures of a run, from its metrics."""

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from drafter.evaluation.report import Picture

Records = Sequence[Mapping[str, str]]


def read_metrics(metrics: Path) -> list[dict[str, str]]:
    """The lines of a `metrics.csv`."""
    with metrics.open() as file:
        return list(csv.DictReader(file))


def curves(records: Records) -> Picture:
    """Training objective, and tokens per cycle in training and on held-out rows, over steps."""
    names = {"tokens_per_block": "training blocks", "tokens_per_cycle_held_out": "held out (walk)"}
    panels = [
        partial(draw_metrics, records, {"loss": "objective"}, "training objective"),
        partial(draw_metrics, records, names, "tokens per cycle"),
    ]
    return Picture("curves", "loss and tokens per cycle over steps", panels)


def kept_per_slot(before: Sequence[float], after: Sequence[float]) -> Picture:
    """Share of cycles that kept each draft slot, before and after training."""

    def draw(axes: Axes) -> None:
        slots = range(1, len(after) + 1)
        axes.bar([slot - 0.2 for slot in slots], before, width=0.4, label="untrained")
        axes.bar([slot + 0.2 for slot in slots], after, width=0.4, label="trained")
        axes.set(xlabel="draft slot", ylabel="share of cycles", title="accepted, per slot (held out)")
        axes.set(xticks=list(slots), ylim=(0, 1))
        axes.legend(fontsize=8)

    return Picture("accepted_per_slot", "share of held-out cycles that keep each slot", [draw])


def rates(found: Mapping[str, Mapping[str, float]]) -> Picture:
    """Tokens per second of each way of decoding.

    Args:
        found: title of a panel → way → tokens per second.
    """

    def draw(title: str, ways: Mapping[str, float], axes: Axes) -> None:
        bars = axes.barh(list(ways), list(ways.values()), color="tab:blue", alpha=0.6)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set(xlabel="tokens per second", title=title)
        axes.margins(x=0.15)
        axes.invert_yaxis()

    height = 1.2 + 0.3 * max(map(len, found.values()))
    return Picture("speed", "tokens per second of each way", [partial(draw, *one) for one in found.items()], height)


def draw_metrics(records: Records, columns: Mapping[str, str], title: str, axes: Axes) -> None:
    """Columns of a run's metrics over its steps, one line each; a column that nothing was logged of is left out.

    Args:
        columns: name in the file → name in the legend.
    """
    for column, name in columns.items():
        points = [(int(record["step"]), float(record[column])) for record in records if record.get(column)]
        few = len(points) < 2 or column.endswith("_held_out")  # dots where a line would hide how few there are
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=1, marker="." if few else None, label=name)
    axes.set(xlabel="step", title=title)
    if len(axes.lines) > 1:
        axes.legend(fontsize=8)
