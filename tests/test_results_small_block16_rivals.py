"""What docs/results/small_block16_rivals says beside its table of arms: rates, full over rivals, ways of drafting."""

import csv
import re
import statistics
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from drafter.ablation import report, tables

sys.path.append(str(ROOT / "benchmarks"))
import arms_by_draft
from arms_by_draft import said

FOLDER = ROOT / "docs/results/small_block16_rivals"
PAGE = (FOLDER / "README.md").read_text().replace("**", "")
PROTOCOL = " ".join((FOLDER.parent / "README.md").read_text().replace("**", "").split())
RIVALS = ("dpace", "lk_alpha")
SUITES = ("held_out", "humaneval", "mt_bench")


def over(baseline):
    """The study as if another arm were its baseline: its tables, and suite → arm → comparison."""
    found = tables.read(FOLDER)
    found = replace(found, about=found.about | {"baseline": baseline})
    return found, report.compare_all(found)


def test_rates_of_the_rivals_are_bracketed():
    with (FOLDER / "rates.csv").open() as file:
        rates = list(csv.DictReader(file))
    arms = {one["arm"]: one["overrides"] for one in tables.read(FOLDER).arms}
    for arm in RIVALS:
        own = {float(one["learning_rate"]): float(one["validation"]) for one in rates if one["arm"] == arm}
        best = max(own, key=own.__getitem__)
        assert min(own) < best < max(own)
        (rate,) = re.findall(r"training.learning_rate=(\S+)", arms[arm])
        assert float(rate) == best
        assert ", ".join(f"{own[rate]:.3f}" for rate in sorted(own)) in PROTOCOL


@pytest.mark.parametrize("rival", RIVALS)
def test_full_over_each_rival_suite_by_suite(rival):
    found, comparisons = over(rival)
    each = {suite: arms["full"] for suite, arms in comparisons.items()}
    mean = report.average(found, "full")
    seeds = ", ".join(f"{100 * gain:+.1f} %" for gain in report.average_by_seed(comparisons, "full"))
    verdict = report.verdict(mean, [one.gain for one in each.values()])
    cells = [said(mean), *(said(each[suite].gain) for suite in SUITES), seeds, verdict]
    assert f"| over `{rival}` | {' | '.join(cells)} |" in PAGE


def test_gains_by_how_drafts_are_used():
    for baseline in ("uniform", "full"):
        assert arms_by_draft.report(FOLDER, baseline) in PAGE


def test_levels_on_validation_rows_at_each_validation():
    curves = tables.read(FOLDER).curves
    arms = list(tables.read(FOLDER).seeds)
    steps = next(iter(curves["uniform", "tokens_per_cycle_held_out"].values()))[0]
    for at, step in enumerate(steps):
        levels = [
            statistics.fmean(values[at] for _, values in curves[arm, "tokens_per_cycle_held_out"].values())
            for arm in arms
        ]
        assert f"| {step + 1} | {' | '.join(f'{one:.2f}' for one in levels)} |" in PAGE
