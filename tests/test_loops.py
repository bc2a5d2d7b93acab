"""Answers that end in a loop: found as defined, cut to their first round where a recipe asks, counted either way."""

import logging
from itertools import product

import pytest
from conftest import make_verifier

from drafter.data.loops import before_repeating, cut_loop
from drafter.data.rows import make_rows, rows_and_cuts


def naive(ids):
    """Drop the last token for as long as it stands one round of the loop behind itself."""
    for period in range(1, len(ids) + 1):
        if 3 * period <= len(ids) and ids[-3 * period :] == 3 * ids[-period:]:
            kept = list(ids)
            while len(kept) > period and kept[-1] == kept[-1 - period]:
                kept.pop()
            return len(kept)
    return len(ids)


def test_a_loop_is_what_the_definition_says():
    for length in range(10):
        for ids in product(range(2), repeat=length):
            assert before_repeating(ids) == naive(list(ids)), ids


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([9, 8, 1, 2, 3, 1, 2, 3, 1, 2, 3], [9, 8, 1, 2, 3]),
        ([9, 8, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1], [9, 8, 1, 2, 3]),  # the limit falls where it likes
        ([9, 8, 1, 2, 3, 1, 2, 3], [9, 8, 1, 2, 3, 1, 2, 3]),  # twice is no loop
        ([1, 2, 1, 2, 1, 2, 7], [1, 2, 1, 2, 1, 2, 7]),  # it ended by itself
        ([5, 5, 5, 5], [5, 5]),  # an anchor, and a token behind it
        ([], []),
    ],
    ids=str,
)
def test_the_first_round_is_kept(ids, kept):
    assert cut_loop(ids) == kept


def test_rows_lose_their_loops_where_that_is_asked_for(caplog):
    verifier = make_verifier("llama")
    known = {"source": "a.py", "kind": "", "prompt": "hi", "messages": None, "tools": None, "stop": "length"}
    answers = [{**known, "answer_ids": [9, 8, 7, 7, 7, 7]}, {**known, "answer_ids": [5, 6, 7]}]
    with caplog.at_level(logging.INFO):
        rows, cuts = rows_and_cuts(answers, verifier, 64)
    assert [row.answer for row in rows] == [[9, 8, 7, 7, 7, 7], [5, 6, 7]]
    assert cuts.loops == 1
    assert "1 of 2 answers end in a loop; data.cut_loops=true keeps its first round alone" in caplog.text
    rows, cuts = rows_and_cuts(answers, verifier, 64, cut_loops=True)
    assert [row.answer for row in rows] == [[9, 8, 7], [5, 6, 7]]
    assert (cuts.loops, cuts.cut) == (1, 0)
    assert make_rows(answers, verifier, 64, cut_loops=True) == rows
