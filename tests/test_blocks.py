"""Anchors, slots and the block mask, against loops over positions."""

import naive
import pytest
import torch
from scipy.stats import chisquare

from drafter.blocks import block_mask, every_anchor, sample_anchors, slot_ids, slot_labels, slot_positions


def supervised_rows():
    """Answers that end early, late, at once and never; one row has two answers, one is an answer from end to end."""
    rows = torch.zeros(6, 24, dtype=torch.bool)
    rows[0, 5:20] = True
    rows[1, 10:24] = True
    rows[2, 7:8] = True
    rows[3, 3:9] = rows[3, 14:19] = True
    rows[4] = True
    return rows


def draw(seed, count=6):
    rows = supervised_rows()
    return sample_anchors(rows, count, torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("documents", [None, [[0] * 5 + [1] * 6, [0] * 3 + [1] * 4 + [2] * 4]], ids=["one", "many"])
@pytest.mark.parametrize("block_size", [2, 3, 5])
@pytest.mark.parametrize(
    "anchors", [[[0], [10]], [[1, 4, 9], [0, 0, 5]], [[2, 3, 4, 5], [7, 8, 9, 10]]], ids=["ends", "some", "adjacent"]
)
def test_block_mask_matches_its_definition(anchors, block_size, documents):
    anchors = torch.tensor(anchors)
    documents = None if documents is None else torch.tensor(documents)
    mask = block_mask(anchors, 11, block_size, documents)
    assert mask.tolist() == naive.block_mask(anchors, 11, block_size, documents)


def test_anchors_are_sorted_distinct_and_inside_an_answer():
    rows = supervised_rows()
    for seed in range(20):
        anchors, used = draw(seed)
        for row in range(len(rows)):
            kept = anchors[row][used[row]].tolist()
            allowed = naive.candidates(rows[row].tolist())
            assert kept == sorted(set(kept))
            assert set(kept) <= set(allowed)
            assert len(kept) == min(6, len(allowed))
            assert (anchors[row][~used[row]] == 0).all()


def test_anchors_are_a_function_of_the_seed():
    assert torch.equal(draw(3)[0], draw(3)[0])
    assert not torch.equal(draw(3)[0], draw(4)[0])


def test_every_candidate_is_drawn_equally_often():
    counts = torch.zeros(24)
    for seed in range(2000):
        anchors, used = draw(seed, count=3)
        counts[anchors[0][used[0]]] += 1
    candidates = naive.candidates(supervised_rows()[0].tolist())
    assert counts.sum() == counts[candidates].sum() == 6000
    assert chisquare(counts[candidates].numpy()).pvalue > 1e-4


def test_every_anchor_is_every_candidate():
    rows = supervised_rows()
    anchors, used = every_anchor(rows)
    for row in range(len(rows)):
        assert anchors[row][used[row]].tolist() == naive.candidates(rows[row].tolist())


def test_slots_hold_the_anchors_token_then_masks():
    ids = torch.arange(100, 122).view(2, 11)
    anchors = torch.tensor([[0, 4, 10], [2, 3, 9]])
    slots = slot_ids(ids, anchors, 4, mask_token_id=7)
    assert slots[..., 0].tolist() == [[100, 104, 110], [113, 114, 120]]
    assert (slots[..., 1:] == 7).all()
    assert slots.shape == (2, 3, 4)


def test_slot_positions_count_from_the_anchor():
    assert slot_positions(torch.tensor([[0, 4]]), 3).tolist() == [[[0, 1, 2], [4, 5, 6]]]


@pytest.mark.parametrize("block_size", [2, 4, 9])
def test_slot_k_is_labelled_with_the_token_at_anchor_plus_k(block_size):
    rows = supervised_rows()
    ids = torch.randint(50, rows.shape, generator=torch.Generator().manual_seed(0))
    anchors, used = draw(0)
    labels, valid = slot_labels(ids, rows, anchors, used, block_size)
    for row in range(len(rows)):
        for block in range(anchors.shape[1]):
            expected = naive.slot_labels(
                ids[row].tolist(), rows[row].tolist(), int(anchors[row, block]), used[row, block], block_size
            )
            got = labels[row, block].tolist()
            assert valid[row, block].tolist() == [k < len(expected) for k in range(block_size - 1)]
            assert got[: len(expected)] == expected
