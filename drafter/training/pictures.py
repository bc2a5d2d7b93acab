"""Pictures of a run."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def curves(metrics: Path, picture: Path) -> None:
    """Training loss, and tokens per cycle in training and on held-out rows, over steps."""
    with metrics.open() as file:
        records = list(csv.DictReader(file))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(*_series(records, "loss"), linewidth=1)
    left.set(xlabel="step", ylabel="objective", title="training objective")
    right.plot(*_series(records, "tokens_per_block"), linewidth=1, label="training blocks", alpha=0.6)
    right.plot(*_series(records, "tokens_per_cycle_held_out"), marker="o", label="held out (walk)")
    right.set(xlabel="step", ylabel="tokens per cycle", title="tokens per cycle")
    right.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def kept_per_slot(before: Sequence[float], after: Sequence[float], picture: Path) -> None:
    """Share of cycles that kept each draft slot, before and after training."""
    slots = range(1, len(after) + 1)
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.bar([slot - 0.2 for slot in slots], before, width=0.4, label="untrained")
    axes.bar([slot + 0.2 for slot in slots], after, width=0.4, label="trained")
    axes.set(xlabel="draft slot", ylabel="share of cycles", title="accepted, per slot (held out)", xticks=list(slots))
    axes.set_ylim(0, 1)
    axes.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def series(metrics: Path, columns: Mapping[str, str], what: str, picture: Path) -> None:
    """Columns of a run's metrics over its steps, one line each.

    Args:
        columns: name in the file → name in the legend.
    """
    with metrics.open() as file:
        records = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for column, name in columns.items():
        axes.plot(*_series(records, column), linewidth=1, label=name)
    axes.set(xlabel="step", ylabel=what)
    axes.legend()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def _series(records: list[dict[str, str]], column: str) -> tuple[list[int], list[float]]:
    points = [(int(record["step"]), float(record[column])) for record in records if record.get(column)]
    return [step for step, _ in points], [value for _, value in points]
