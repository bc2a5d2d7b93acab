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


@pytest.mark.parametrize("kind", ["block", "causal"])
def test_theory_and_the_clock(kind):
    told = json.loads((FOLDER / f"theory_{kind}.json").read_text())
    (line,) = [line for line in (ROOT / "docs/diversed.md").read_text().splitlines() if f"theory_{kind}.json" in line]
    draft = told["draft_length"] * told["cost"]
    figures = [f"{one:.2f}" for one in (told["acceptance_rate"], draft, told["verify"])]
    pairs = [(told["tokens"], told["measured_tokens"]), (told["speedup"], told["measured_speedup"])]
    figures += [f"{theory:.2f}, {measured:.2f}" for theory, measured in pairs]
    assert line.endswith(f"| {' | '.join(figures)} |")
    assert told["best_length"] == 1
    assert abs(told["measured_speedup"] / told["speedup"] - 1) < 0.15  # the goal
