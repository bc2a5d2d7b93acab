"""Anchor coverage: counted in batches, and expected of them by enumeration of all draws."""

from itertools import combinations

import pytest
import torch

from drafter.data.coverage import Coverage, expected_coverage
from drafter.data.rows import Row, pad
from drafter.training.batches import Assembly

SPANS = [((2, 9),), ((0, 1), (3, 8)), ((1, 4), (6, 12)), ((0, 2), (2, 4), (5, 9))]


def row_of(spans):
    return Row(list(range(3, 15)), spans)


def shares(row, anchors, draft_length):
    """Of every choice of anchors, the share of the supervised tokens that are drafted."""
    candidates = [(at, end) for start, end in row.spans for at in range(start, end - 1)]
    for chosen in combinations(candidates, min(anchors, len(candidates))):
        hit = {place for at, end in chosen for place in range(at + 1, min(at + draft_length + 1, end))}
        yield len(hit) / len(row.answer)


@pytest.mark.parametrize("draft_length", [1, 2, 5, 30])
@pytest.mark.parametrize("anchors", [1, 2, 4, 50])
@pytest.mark.parametrize("spans", [SPANS[0], SPANS[1], SPANS[2]], ids=str)
def test_expected_coverage_is_the_mean_over_all_draws(spans, anchors, draft_length):
    every = list(shares(row_of(spans), anchors, draft_length))
    expected = expected_coverage([row_of(spans)], anchors, draft_length + 1)
    assert expected == pytest.approx(sum(every) / len(every), rel=1e-12)


def test_expected_coverage_of_many_rows_is_over_their_tokens():
    rows = [row_of(spans) for spans in SPANS[:3]]
    hit = sum(expected_coverage([row], 2, 4) * len(row.answer) for row in rows)
    assert expected_coverage(rows, 2, 4) == pytest.approx(hit / sum(len(row.answer) for row in rows))
    assert expected_coverage([], 2, 4) == 0


@pytest.mark.parametrize("packing", [False, True])
def test_batches_cover_what_is_expected_of_them(packing):
    rows = [Row([number, *range(3, 14)], SPANS[number % 3]) for number in range(120)]
    assemble = Assembly(seed=0, anchors=2, block_size=4, packing=packing)
    packs = [rows[at : at + 5] for at in range(0, 120, 5)] if packing else [[row] for row in rows]
    batches = [assemble(number, packs, epoch=number) for number in range(20)]
    found = sum(batch.drafted for batch in batches) / sum(batch.supervised for batch in batches)
    assert batches[0].supervised == sum(len(row.answer) for row in rows)
    assert found == pytest.approx(expected_coverage(rows, 2, 4), abs=0.01)


def test_a_batch_counts_tokens_that_a_valid_slot_predicts():
    """Adjacent answers are one run of supervised tokens; padding and what stands before an answer never counts."""
    rows = [row_of(SPANS[3]), row_of(SPANS[0])]
    batch = Assembly(seed=0, anchors=100, block_size=2, packing=False)(0, [[row] for row in rows])
    supervised = pad(rows).supervised
    behind_another = supervised & torch.roll(supervised, 1, 1)
    assert batch.drafted == int(behind_another[:, 1:].sum())
    assert batch.supervised == int(supervised.sum())


def test_the_share_is_the_last_whole_epochs():
    coverage = Coverage()
    coverage.add(3, 10, epoch_ends=False)
    assert coverage.share == 0.3
    coverage.add(5, 10, epoch_ends=True)
    assert coverage.share == 0.4
    coverage.add(1, 10, epoch_ends=False)
    assert coverage.share == 0.4
    again = Coverage(**coverage.state())
    again.add(0, 10, epoch_ends=True)
    assert again.share == 0.05
