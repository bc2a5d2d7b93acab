"""What docs/results/diversed says is what its CSV files hold, line by line."""

import csv
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/results/diversed"
TEXT = (FOLDER / "README.md").read_text()
FIGURES = ("tokens_per_cycle", "acceptance", "reward", "variation")


def lines(name):
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def cell(line, name):
    """A figure with its interval, as the table writes it."""
    if not line[name]:
        return ""
    value, low, high = (float(line[name + end]) for end in ("", "_low", "_high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


@pytest.mark.parametrize("line", lines("frontier.csv"), ids=lambda line: line["way"])
def test_the_map(line):
    assert f"| {' | '.join([line['way'], *(cell(line, name) for name in FIGURES)])} |" in TEXT


@pytest.mark.parametrize("line", lines("heads.csv"), ids=lambda line: line["heads"])
def test_what_heads_gain(line):
    gain, low, high = (float(line[name]) for name in ("gain", "low", "high"))
    assert f"| {line['heads']} | {gain:+.3f} [{low:+.3f}, {high:+.3f}] |" in TEXT


def test_theory_and_the_clock():
    theory = json.loads((FOLDER / "theory.json").read_text())
    text = " ".join((ROOT / "docs/diversed.md").read_text().split())
    assert f"{theory['tokens']:.2f} tokens per cycle, {theory['measured_tokens']:.2f} measured" in text
    assert f"speed-up of {theory['speedup']:.2f}, {theory['measured_speedup']:.2f} measured" in text
    assert f"acceptance rate of {theory['acceptance_rate']:.2f}" in text
    assert abs(theory["measured_speedup"] / theory["speedup"] - 1) < 0.15
