"""What docs/results/small_block16 says beside its table of arms: where it starts, rates, what terms weigh."""

import csv
import statistics
import sys

from conftest import ROOT

from drafter.ablation import report, tables

sys.path.append(str(ROOT / "benchmarks"))
import arms_by_draft
import gain_by_level

FOLDER = ROOT / "docs/results/small_block16"
WHOLE, LONG = FOLDER.with_name("small_block16_whole"), FOLDER.with_name("small_block16_long")
TEXT = " ".join((FOLDER / "README.md").read_text().replace("**", "").split())
PROTOCOL = " ".join((FOLDER.parent / "README.md").read_text().replace("**", "").split())
ARMS = ("uniform", "full")
SUITES = {"held-out": "held_out", "HumanEval": "humaneval", "MT-bench": "mt_bench"}


def records(name, folder=FOLDER):
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def late(found, arm, metric):
    """Mean over the last quarter of the steps logged and over seeds, as the report has it."""
    seeds = found.curves[arm, f"gradient_norm/{metric}"].values()
    return statistics.fmean(value for _, values in seeds for value in values[-max(1, len(values) // 4) :])


def test_what_the_last_stretch_adds_to_its_start():
    comparisons = report.compare_all(tables.read(FOLDER))
    start = {one["suite"]: int(one["emitted"]) / int(one["cycles"]) for one in records("start.csv")}
    grown = {"uniform": [], "full": []}
    for name, suite in SUITES.items():
        ends = [comparisons[suite][arm].tokens_per_cycle.value for arm in grown]
        gains = [100 * (end / start[suite] - 1) for end in ends]
        for arm, gain in zip(grown, gains, strict=True):
            grown[arm].append(gain)
        cells = " | ".join([*(f"{one:.2f}" for one in (start[suite], *ends)), *(f"{one:+.1f} %" for one in gains)])
        assert f"| {name} | {cells} |" in TEXT
    uniform, full = (statistics.fmean(each) for each in grown.values())
    assert f"adds {uniform:.1f} % to its start on average under uniform, {full:.1f} % under full" in TEXT


def test_rates_are_bracketed():
    for arm in ("uniform", "full"):
        own = [float(one["validation"]) for one in records("rates.csv") if one["arm"] == arm]
        assert own[0] < max(own) > own[-1]
        assert f"{arm} {', '.join(f'{one:.3f}' for one in own)}" in PROTOCOL


def test_what_terms_weigh_at_the_end():
    found = tables.read(FOLDER)
    chain, first = (
        weight * late(found, "full", term) / late(found, "full", "decayed_ce")
        for weight, term in ((40, "chain_reward"), (0.3, "first_error"))
    )
    assert (
        f"40 of the chain weigh {chain:.1f} times as much as cross-entropy, 0.3 of first-error {first:.1f} times"
        in TEXT
    )


def test_a_short_training_beside_the_long_one():
    text = " ".join((WHOLE / "README.md").read_text().replace("**", "").split())
    rates = {
        arm: [float(one["validation"]) for one in records("rates.csv", WHOLE) if one["arm"] == arm] for arm in ARMS
    }
    uniform, full = ("{:.3f}, {:.3f} and {:.3f}".format(*rates[arm]) for arm in ARMS)
    assert f"{uniform} tokens per cycle on validation rows at 3e-3, 6e-3 and 1.2e-2, full's {full}" in text
    assert max(rates["uniform"]) == rates["uniform"][1]
    short, long = (report.compare_all(tables.read(folder)) for folder in (WHOLE, FOLDER))
    level = [
        each[suite][arm].tokens_per_cycle.value
        for each, arm in ((short, "full_faster"), (long, "uniform"))
        for suite in ("humaneval", "mt_bench")
    ]
    assert f"stands at {level[0]:.2f} tokens per cycle on HumanEval and {level[1]:.2f} on MT-bench" in text
    assert f"uniform after 1 320 steps at {level[2]:.2f} and {level[3]:.2f}" in text
    uniform = [arms["uniform"].tokens_per_cycle.value for arms in short.values()]
    assert f"Uniform stands at {min(uniform):.2f} to {max(uniform):.2f} tokens per cycle" in text
    average = {arm: report.average(tables.read(WHOLE), arm).value for arm in ("full", "full_faster")}
    assert (
        f"by {100 * average['full']:.0f} % at uniform's rate and {100 * average['full_faster']:.0f} % at its own"
        in TEXT
    )


def test_rates_of_the_long_training_are_bracketed():
    for arm in ARMS:
        own = [float(one["validation"]) for one in records("rates.csv", LONG) if one["arm"] == arm]
        assert own[0] < max(own) > own[-1]
        assert f"{arm} {', '.join(f'{one:.3f}' for one in own)} from 3e-3" in PROTOCOL
    of = {(one["arm"], float(one["learning_rate"])): float(one["validation"]) for one in records("rates.csv", LONG)}
    pairs = ((6e-3, 6e-3), (1.2e-2, 1.2e-2), (4.8e-2, 1.2e-2))
    gains = ["{:.0f} %".format(100 * (of["full", one] / of["uniform", other] - 1)) for one, other in pairs]
    said = "At 6e-3 for both the gain of that seed was {}, at 1.2e-2 for both {}, at each one's best {}"
    assert said.format(*gains) in " ".join((LONG / "README.md").read_text().split())


def test_the_gain_of_the_long_training_at_each_validation():
    page, curves = (LONG / "README.md").read_text(), tables.read(LONG).curves
    steps = next(iter(curves["uniform", "tokens_per_cycle_held_out"].values()))[0]
    for at, step in enumerate(steps):
        levels = {arm: [values[at] for _, values in curves[arm, "tokens_per_cycle_held_out"].values()] for arm in ARMS}
        uniform, full = (statistics.fmean(each) for each in levels.values())
        ahead = sum(two > one for one, two in zip(*levels.values(), strict=True))
        assert f"| {step + 1} | {uniform:.2f} | {full:.2f} | {100 * (full / uniform - 1):+.1f} % | {ahead} |" in page


def test_gains_by_how_drafts_are_used():
    page = (LONG / "README.md").read_text()
    assert arms_by_draft.report(LONG) in page
    assert arms_by_draft.report(LONG, "decay") in page


def test_the_goal_is_met_where_uniform_is_level_with_the_papers_drafters():
    comparisons = report.compare_all(tables.read(LONG))
    level = statistics.fmean(arms["uniform"].tokens_per_cycle.value for arms in comparisons.values())
    assert 2 <= level <= 3.2
    assert report.average(tables.read(LONG), "full").value >= 0.21
    assert all(arms["full"].gain.above_zero for arms in comparisons.values())
    assert f"uniform at {level:.2f} on average" in " ".join((LONG / "README.md").read_text().split())


def test_all_studies_in_one_table():
    assert gain_by_level.table() in (FOLDER.parent / "README.md").read_text()
    assert gain_by_level.on_a_gpu()[-1][1] > 0
