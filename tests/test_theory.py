"""Leviathan's theory: his own tables, the enumerated law of a cycle, and his corollary."""

import pytest

from drafter.evaluation.theory import (
    expected_tokens,
    expected_tokens_by_slot,
    length_in_theory,
    operations,
    speedup,
)
from tests import naive_verification as naive

# arXiv:2211.17192, table 1: alpha, draft length -> operations, speed, at a drafter that costs nothing
TABLE = [
    (0.6, 2, 1.53, 1.96),
    (0.7, 3, 1.58, 2.53),
    (0.8, 2, 1.23, 2.44),
    (0.8, 5, 1.63, 3.69),
    (0.9, 2, 1.11, 2.71),
    (0.9, 10, 1.60, 6.86),
]
# of its table 2: alpha, draft length, cost -> speed by theorem 3.8
PREDICTED = [(0.75, 7, 0.02, 3.2), (0.80, 7, 0.04, 3.3), (0.62, 7, 0.02, 2.3), (0.74, 3, 0.11, 2.0)]


@pytest.mark.parametrize(("rate", "length", "arithmetic", "speed"), TABLE)
def test_the_papers_table(rate, length, arithmetic, speed):
    assert operations(rate, length, 0.0) == pytest.approx(arithmetic, abs=0.006)
    assert speedup(rate, length, 0.0) == pytest.approx(speed, abs=0.006)


@pytest.mark.parametrize(("rate", "length", "cost", "speed"), PREDICTED)
def test_speed_with_a_drafter_that_costs_something(rate, length, cost, speed):
    assert speedup(rate, length, cost) == pytest.approx(speed, abs=0.051)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_of_a_cycle_are_the_enumerated_ones_where_all_slots_are_alike(seed, length):
    world = naive.random_world(seed, 3, length)
    for path in world.verifier:
        world.verifier[path] = world.verifier[()]
    for path in world.drafter:
        world.drafter[path] = world.drafter[()]
    rate = 1 - naive.total_variation(world.verifier[()], world.drafter[()])
    tokens = naive.tokens_per_cycle("speculative_sampling", world)
    assert expected_tokens(rate, length) == pytest.approx(tokens, abs=1e-12)
    assert expected_tokens_by_slot([rate] * length) == pytest.approx(tokens, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_slots_of_their_own_rates_have_the_enumerated_tokens(seed):
    """A drafter and a verifier that know the slot alone: each slot has its own rate, independent of the tokens."""
    world = naive.random_world(seed, 3, 3)
    for laws in (world.verifier, world.drafter):
        for path in laws:
            laws[path] = laws[(0,) * len(path)]
    rates = [1 - naive.total_variation(world.verifier[(0,) * slot], world.drafter[(0,) * slot]) for slot in range(3)]
    tokens = naive.tokens_per_cycle("speculative_sampling", world)
    assert expected_tokens_by_slot(rates) == pytest.approx(tokens, abs=1e-12)


def test_the_ends():
    assert expected_tokens(1.0, 5) == 6
    assert expected_tokens(0.0, 5) == 1
    assert expected_tokens(0.7, 0) == 1
    for rate, cost in ((0.5, 0.2), (0.9, 0.05)):  # corollary 3.9: one draft gains (1 + alpha) / (1 + c)
        assert speedup(rate, 1, cost) == pytest.approx((1 + rate) / (1 + cost))


def test_a_draft_pays_if_and_only_if_it_is_kept_more_often_than_it_costs():
    for rate in (0.1, 0.3, 0.5, 0.9):
        for cost in (0.05, 0.2, 0.4, 0.8):
            assert (length_in_theory(rate, cost, 20) > 0) == (rate > cost)


def test_the_best_length_is_the_best():
    def verify(length):
        return 1 + 0.3 * (length >= 3)

    for rate in (0.5, 0.8, 0.95):
        best = length_in_theory(rate, 0.05, 12, verify)
        speeds = [speedup(rate, length, 0.05, verify=verify(length)) for length in range(13)]
        assert speeds[best] == max(speeds)
    assert length_in_theory(0.8, 0.05, 3) == 3
    assert length_in_theory(0.8, 0.05, 3, lambda length: 1 + 5.0 * (length > 1)) == 1


def test_what_is_no_rate_or_length_is_refused():
    with pytest.raises(ValueError, match=r"acceptance_rate=1.1: must be in \[0, 1\]"):
        expected_tokens(1.1, 3)
    with pytest.raises(ValueError, match="draft_length=-1: must be >= 0"):
        expected_tokens(0.5, -1)
    with pytest.raises(ValueError, match=r"acceptance_rate=-0\.1"):
        expected_tokens_by_slot([0.5, -0.1])
