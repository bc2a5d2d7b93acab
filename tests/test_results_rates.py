"""Studies that looked for each arm's rate: rates bracketed and said, levels at every validation."""

import csv
import re
import statistics
import sys

import pytest
from conftest import ROOT

from drafter.ablation import tables

sys.path.append(str(ROOT / "benchmarks"))
import block_sizes

RESULTS = ROOT / "docs/results"
PROTOCOL = " ".join((RESULTS / "README.md").read_text().replace("**", "").split())
LOOKED_FOR = {"small_block16_rivals": ("dpace", "lk_alpha"), "small_block8": ("uniform", "full")}
STEPPED = "tokens_per_cycle_held_out"


def text(name):
    return (RESULTS / name / "README.md").read_text().replace("**", "")


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_rates_are_bracketed(name):
    with (RESULTS / name / "rates.csv").open() as file:
        rates = list(csv.DictReader(file))
    arms = {one["arm"]: one["overrides"] for one in tables.read(RESULTS / name).arms}
    for arm in LOOKED_FOR[name]:
        own = {float(one["learning_rate"]): float(one["validation"]) for one in rates if one["arm"] == arm}
        best = max(own, key=own.__getitem__)
        assert min(own) < best < max(own)
        (rate,) = re.findall(r"training.learning_rate=(\S+)", arms[arm])
        assert float(rate) == best
        assert ", ".join(f"{own[rate]:.3f}" for rate in sorted(own)) in PROTOCOL


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_levels_on_validation_rows_at_each_validation(name):
    found = tables.read(RESULTS / name)
    steps = next(iter(found.curves["uniform", STEPPED].values()))[0]
    for at, step in enumerate(steps):
        levels = [statistics.fmean(each[at] for _, each in found.curves[arm, STEPPED].values()) for arm in found.seeds]
        assert f"| {step + 1} | {' | '.join(f'{one:.2f}' for one in levels)} |" in text(name)


def test_blocks_of_8_beside_blocks_of_16():
    short, long = RESULTS / "small_block8", RESULTS / "small_block16_rivals"
    table = block_sizes.report(short, long)
    assert table in text("small_block8")
    (gain,) = re.findall(r"\| uniform \|.*?\|.*?\| \+(\S+) %", table)
    assert f"drafts seven tokens {float(gain):.0f} % better" in text("small_block8")
    weighs = []
    for folder in (short, long):
        curves = tables.read(folder).curves
        late = [
            statistics.fmean(
                one for _, each in curves["full", f"gradient_norm/{term}"].values() for one in each[-(len(each) // 4) :]
            )
            for term in ("chain_reward", "decayed_ce")
        ]
        weighs.append(f"{40 * late[0] / late[1]:.1f}")
    assert f"40 is {weighs[0]} times that of cross-entropy at the end, {weighs[1]} at blocks of 16" in " ".join(
        text("small_block8").split()
    )
