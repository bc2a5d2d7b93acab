"""Statistics of ablations: paired intervals over prompts, exact where all draws fit."""

import itertools

import pytest
import torch

from drafter.evaluation import statistics


def counts_of(emitted, cycles, accepted):
    both = {"emitted": emitted, "cycles": cycles, "accepted": accepted}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in both.items()}


TOY = counts_of([[6, 9, 4], [6, 9, 4]], [[3, 3, 4], [2, 4, 3]], [[3, 6, 1], [4, 5, 1]])
TOY_BASE = counts_of([[6, 9, 4], [6, 9, 4]], [[4, 3, 4], [5, 6, 4]], [[2, 6, 1], [1, 4, 1]])


def exact_interval(statistic):
    """Every draw of three prompts, in plain Python."""
    found = sorted(statistic(draw) for draw in itertools.product(range(3), repeat=3))
    return found[0], found[-1]  # 95 % of 27 draws are more than 25


def rate(counts, what, prompts):
    def total(name, seed):
        return sum(float(counts[name][seed, prompt]) for prompt in prompts)

    return sum(total(what, seed) / total("cycles", seed) for seed in (0, 1)) / 2


@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        ("tokens_per_cycle", lambda draw: rate(TOY, "emitted", draw)),
        ("difference", lambda draw: rate(TOY, "emitted", draw) - rate(TOY_BASE, "emitted", draw)),
        ("gain", lambda draw: rate(TOY, "emitted", draw) / rate(TOY_BASE, "emitted", draw) - 1),
        ("accepted_gain", lambda draw: rate(TOY, "accepted", draw) / rate(TOY_BASE, "accepted", draw) - 1),
    ],
)
def test_the_paired_bootstrap_is_exact_where_all_draws_fit(name, statistic):
    found = getattr(statistics.compare(TOY, TOY_BASE), name)
    assert found.value == pytest.approx(statistic((0, 1, 2)), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(exact_interval(statistic), rel=1e-12)


def test_pairing_narrows_the_interval():
    """Prompts differ a lot, arms by a tenth everywhere: the difference is known better than either number."""
    generator = torch.Generator().manual_seed(0)
    cycles = torch.randint(10, 60, (1, 40), generator=generator).double()
    base = {"emitted": torch.full((1, 40), 120.0).double(), "cycles": cycles, "accepted": 120 - cycles}
    arm = {**base, "cycles": cycles * 0.9, "accepted": 120 - cycles * 0.9}
    found = statistics.compare(arm, base)
    assert found.gain.value == pytest.approx(1 / 0.9 - 1)
    assert found.gain.high - found.gain.low < 1e-9
    assert found.tokens_per_cycle.high - found.tokens_per_cycle.low > 0.3


def test_draws_are_the_same_for_both_arms_and_every_time():
    assert torch.equal(statistics.draw(40), statistics.draw(40))
    assert torch.equal(statistics.draw(40).sum(1), torch.full((statistics.DRAWS,), 40.0).double())
    assert len(statistics.draw(3)) == 27


def test_an_arm_against_itself_gains_nothing():
    found = statistics.compare(TOY, TOY)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)


def test_only_common_seeds_are_compared():
    arm, base = statistics.pair(TOY, [0, 2], TOY_BASE, [2, 5])
    assert torch.equal(arm["cycles"], TOY["cycles"][[1]])
    assert torch.equal(base["cycles"], TOY_BASE["cycles"][[0]])


def test_the_average_gain_is_the_mean_over_suites():
    small = statistics.compare(TOY, TOY_BASE).gain
    same = statistics.average_gain({"a": (TOY, TOY_BASE), "b": (TOY, TOY)})
    assert same.value == pytest.approx(small.value / 2)
    assert same.low == pytest.approx(small.low / 2, abs=0.02)
    alone = statistics.average_gain({"a": (TOY, TOY_BASE)})
    assert (alone.low, alone.high) == pytest.approx((small.low, small.high), abs=0.05)
