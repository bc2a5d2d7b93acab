"""What docs/results/small_block16_rivals says beside its table of arms: full over rivals, ways of drafting."""

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
RIVALS = ("dpace", "lk_alpha")
SUITES = ("held_out", "humaneval", "mt_bench")


def over(baseline):
    """The study as if another arm were its baseline: its tables, and suite → arm → comparison."""
    found = tables.read(FOLDER)
    found = replace(found, about=found.about | {"baseline": baseline})
    return found, report.compare_all(found)


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
