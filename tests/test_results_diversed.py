"""What docs/results/diversed says is what its CSV files hold, line by line."""

import csv
import json
from functools import cache
from pathlib import Path

import pytest

from drafter.evaluation import frontier
from drafter.evaluation.frontier.kept import point_of, read
from drafter.evaluation.rewards.tasks import split_tasks, worded_sums

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/results/diversed"
TEXT = (FOLDER / "README.md").read_text()
FIGURES = ("tokens_per_cycle", "acceptance", "reward", "variation")


WORDED = [f"worded_{seed}" for seed in range(5)]


def lines(name):
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


@cache
def kept():
    """What was asked and the points of the study with many prompts, by the names of their ways."""
    asked, records = read(FOLDER / "worded/ways.jsonl")
    points = [point_of(one) for one in records]
    return asked, {point.way.name: point for point in points}


def gain(*names, **more):
    _, points = kept()
    static = [point for point in points.values() if point.way.static]
    return frontier.gain_over(static, *(points[name] for name in names), **more)


def told(one):
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def cell(line, name):
    """A figure with its interval, as the table writes it."""
    if not line[name]:
        return ""
    value, low, high = (float(line[name + end]) for end in ("", "_low", "_high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


@pytest.mark.parametrize(
    "line", lines("frontier.csv") + lines("worded/frontier.csv"), ids=lambda line: f"{line['way']} {line['reward']}"
)
def test_the_map(line):
    assert f"| {' | '.join([line['way'], *(cell(line, name) for name in FIGURES)])} |" in TEXT


@pytest.mark.parametrize("line", lines("heads.csv"), ids=lambda line: line["heads"])
def test_what_heads_gain(line):
    gain, low, high = (float(line[name]) for name in ("gain", "low", "high"))
    assert f"| {line['heads']} | {gain:+.3f} [{low:+.3f}, {high:+.3f}] |" in TEXT


def test_the_study_with_many_prompts_follows_from_its_answers():
    asked, points = kept()
    *_, held_out = split_tasks(worded_sums(10**6, 0))
    assert sorted(asked["tasks"]) == sorted(task.source for task in held_out)
    assert len(held_out) == 114
    assert all(point.counts["reward"].shape == (2, 114) for point in points.values())
    for line in lines("worded/frontier.csv"):
        figures = points[line["way"]].figures()
        for name in FIGURES:
            assert (float(line[name]) if line[name] else None) == pytest.approx(figures[name], abs=1e-9)


@pytest.mark.parametrize("line", lines("worded/gains.csv"), ids=lambda line: line["way"])
def test_what_rules_gain_on_many_prompts(line):
    heads = [f"dynamic {name}" for name in line["way"].split(", ") if name.startswith("worded")]
    found = gain(*(heads or [line["way"]]))
    assert [float(line[name]) for name in ("value", "low", "high")] == pytest.approx(
        [found.value, found.low, found.high]
    )
    assert f"| {line['way']} | {told(found)} |" in TEXT


def test_the_headline():
    _, points = kept()
    heads = [f"dynamic {name}" for name in WORDED]
    page = (ROOT / "docs/diversed.md").read_text()
    control = "dynamic worded_digits"
    quoted = [gain(*heads), gain(*heads[:3]), gain(*heads, beside=points["budget 0.3"]), gain(control)]
    assert [one.above_zero for one in quoted] == [True, False, True, True]
    for one in quoted:
        assert told(one) in TEXT
        assert told(one) in page
    assert told(gain(*heads, beside=points[control])) in TEXT


@pytest.mark.parametrize("kind", ["block", "causal"])
def test_theory_and_the_clock(kind):
    theory = json.loads((FOLDER / f"theory_{kind}.json").read_text())
    (line,) = [line for line in (ROOT / "docs/diversed.md").read_text().splitlines() if f"theory_{kind}.json" in line]
    draft = theory["draft_length"] * theory["cost"]
    figures = [f"{one:.2f}" for one in (theory["acceptance_rate"], draft, theory["verify"])]
    pairs = [(theory["tokens"], theory["measured_tokens"]), (theory["speedup"], theory["measured_speedup"])]
    figures += [f"{computed:.2f}, {measured:.2f}" for computed, measured in pairs]
    assert line.endswith(f"| {' | '.join(figures)} |")
    assert theory["best_length"] == 1
    assert abs(theory["measured_speedup"] / theory["speedup"] - 1) < 0.15  # the goal
