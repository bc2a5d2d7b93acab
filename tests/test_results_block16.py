"""What docs/results/block16 says is what its CSV files hold: curves of two seeds, three walks, what terms weigh."""

import csv
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "docs/results/block16"
TEXT = (FOLDER / "README.md").read_text().replace("**", "")
STEPS = range(500, 3001, 500)
ARMS = {"uniform, seeds 0, 1": "uniform", "decay": "decay", "decay + first-error": "decay_first_error", "full": "full"}


def records(name):
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


def curves():
    return {
        (one["study"], one["arm"], int(one["seed"]), int(one["step"])): float(one["tokens_per_cycle_held_out"])
        for one in records("curves.csv")
    }


def row(name, table=0):
    """The cells of the table row of that name, without the name."""
    lines = [line for line in TEXT.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in lines[table].strip("|").split("|")][1:]


def test_curves_of_the_two_finished_seeds():
    found = curves()
    for name, arm in ARMS.items():
        assert row(name) == [", ".join(f"{found['block16', arm, seed, step]:.3f}" for seed in (0, 1)) for step in STEPS]
    gains = [
        [found["block16", "full", seed, step] / found["block16", "uniform", seed, step] - 1 for seed in (0, 1)]
        for step in STEPS
    ]
    assert row("full over uniform") == [f"{100 * one:+.1f}, {100 * other:+.1f} %" for one, other in gains]
    assert ("block16", "full", 2, 2000) not in found  # the third seed is cut off, as the page says


def test_walks_of_three_drafters():
    counts = defaultdict(lambda: [0, 0])
    for one in records("suites.csv"):
        key = one["arm"], one["seed"], one["suite"]
        counts[key] = [sum(pair) for pair in zip(counts[key], (int(one["emitted"]), int(one["cycles"])), strict=True)]
    for arm, seed in (("uniform", "0"), ("decay", "1"), ("full", "1")):
        pairs = (counts[arm, seed, suite] for suite in ("held_out", "humaneval", "mt_bench"))
        assert row(f"{arm}, seed {seed}") == [f"{emitted / cycles:.3f}" for emitted, cycles in pairs]


def test_rates_at_two_thirds():
    found = curves()
    for arm in ("uniform", "full"):
        keys = ("rates", f"{arm}_0.001"), ("block16", arm), ("rates", f"{arm}_0.01")
        given = [f"{found[*key, 0, 2000]:.3f}" for key in keys]
        assert all(each in TEXT for each in given)
        assert given[1] == max(given)


def test_what_the_chain_weighs():
    full = [one for one in records("terms.csv") if one["arm"] == "full"]
    ratio = {
        (one["seed"], one["steps_to"]): 40
        * float(one["gradient_norm/chain_reward"])
        / float(one["gradient_norm/decayed_ce"])
        for one in full
    }
    said = {"250": "0.9 by step 250", "1000": "{} and {}\nby 1 000", "2000": "{} and {} by 2 000"}
    said["3000"] = "{} and {} by 3 000"
    for steps, words in said.items():
        assert words.format(*(f"{ratio[seed, steps]:.1f}" for seed in "01")) in TEXT
