"""The order in which steps see rows."""

from collections import Counter

import pytest

from drafter.data.order import Order


@pytest.mark.parametrize(("count", "per_step"), [(100, 4), (103, 8), (5, 5), (1000, 3)])
def test_no_row_comes_twice_in_an_epoch(count, per_step):
    order = Order([(7 * i) % 31 for i in range(count)], per_step, seed=0)
    left_out = set()
    for epoch in range(3):
        first = epoch * order.steps_per_epoch
        steps = [order(step) for step in range(first, first + order.steps_per_epoch)]
        seen = Counter(index for step in steps for index in step)
        assert all(len(step) == per_step for step in steps)
        assert set(seen.values()) == {1}
        assert len(seen) == count - count % per_step
        left_out |= set(range(count)) - set(seen)
    assert bool(left_out) == bool(count % per_step)


def test_order_is_a_function_of_seed_and_step():
    lengths = list(range(100))
    one, other = Order(lengths, 4, seed=3), Order(lengths, 4, seed=3)
    forwards = [one(step) for step in range(80)]
    backwards = [other(step) for step in reversed(range(80))][::-1]
    assert forwards == backwards
    assert forwards[:25] != forwards[25:50]  # epochs differ
    assert forwards != [Order(lengths, 4, seed=4)(step) for step in range(80)]


def test_rows_of_a_step_are_of_similar_length():
    lengths = [(37 * i) % 500 for i in range(500)]
    order = Order(lengths, 8, seed=0)
    spread = [max(lengths[i] for i in order(step)) - min(lengths[i] for i in order(step)) for step in range(60)]
    assert sum(spread) / len(spread) < 60  # 390 without grouping


def test_fewer_rows_than_a_step_takes_are_refused():
    with pytest.raises(ValueError, match=r"training\.rows: a step takes 8 rows, the data have 7; lower it"):
        Order([1] * 7, 8, seed=0)
