"""Metrics of blocks: against a loop over blocks and slots, and on a case done by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

from drafter.evaluation import metrics


@st.composite
def blocks(draw):
    """hits, valid [N, G], and per-slot numbers in (0, 1)."""
    count, length = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    ends = torch.randint(0, length + 1, (count, 1), generator=generator)
    valid = torch.arange(length) < ends
    hits = (torch.rand(count, length, generator=generator) < 0.6) & valid
    return hits, valid, torch.rand(count, length, generator=generator, dtype=torch.float64).clamp(0.01, 0.99)


def walked(hits, valid):
    """Each block slot by slot: (block, slot, hit) of the slots that are reached."""
    for block, (row, exists) in enumerate(zip(hits.tolist(), valid.tolist(), strict=True)):
        for slot, (hit, there) in enumerate(zip(row, exists, strict=True)):
            if not there:
                break
            yield block, slot, hit
            if not hit:
                break


def share(found):
    return sum(found) / len(found) if found else math.nan


@settings(max_examples=60)
@given(case=blocks())
def test_metrics_are_those_of_a_loop(case):
    hits, valid, values = case
    seen, length = list(walked(hits, valid)), hits.shape[1]
    by_slot = [[hit for _, place, hit in seen if place == slot] for slot in range(length)]
    assert metrics.acceptance_by_slot(hits, valid) == pytest.approx(list(map(share, by_slot)), nan_ok=True)
    marginal = [share(hits[valid[:, slot], slot].tolist()) for slot in range(length)]
    assert metrics.marginal_acceptance(hits, valid) == pytest.approx(marginal, nan_ok=True)
    ends = [place for _, place, hit in seen if not hit]
    expected = [ends.count(slot) for slot in range(length)]
    assert metrics.first_rejections(hits, valid) == [*expected, len(hits) - len(ends)]
    used, right = sum(hit for *_, hit in seen), int((hits & valid).sum())
    assert metrics.waste(hits, valid) == pytest.approx(1 - used / right if right else math.nan, nan_ok=True)
    rejected = [float(values[block, place]) for block, place, hit in seen if not hit]
    assert metrics.at_first_rejection(values, hits, valid) == pytest.approx(share(rejected), nan_ok=True)
    names = ["even", "odd"]
    classes = torch.arange(length).expand_as(hits) % 2
    for index, name in enumerate(names):
        own = [hit for _, place, hit in seen if place % 2 == index]
        found = metrics.acceptance_by_class(classes, hits, valid, names).get(name)
        assert found == ({"count": len(own), "kept": pytest.approx(share(own))} if own else None)


@settings(max_examples=40)
@given(case=blocks())
def test_expected_lengths_are_those_of_a_loop(case):
    _, valid, values = case
    lengths = []
    for row, exists in zip(values.tolist(), valid.tolist(), strict=True):
        total, product = 1.0, 1.0
        for chance, there in zip(row, exists, strict=True):
            if not there:
                break
            product *= chance
            total += product
        lengths.append(total)
    assert metrics.probabilistic_expected_length(values.log(), valid) == pytest.approx(share(lengths), rel=1e-12)
    shares = [0.5, 0.25, 0.8]
    assert metrics.expected_length_by_product(shares) == 1 + 0.5 + 0.125 + 0.1


@settings(max_examples=40)
@given(case=blocks(), bins=st.integers(1, 7))
def test_calibration_counts_reached_slots_by_their_confidence(case, bins):
    hits, valid, values = case
    seen = list(walked(hits, valid))
    table = metrics.calibration(values, hits, valid, bins)
    assert sum(row["count"] for row in table) == len(seen)
    error = 0.0
    for row in table:
        own = [(float(values[b, s]), hit) for b, s, hit in seen if row["from"] <= values[b, s] < row["to"]]
        assert row["count"] == len(own)
        assert row["confidence"] == pytest.approx(share([sure for sure, _ in own]))
        assert row["hits"] == pytest.approx(share([hit for _, hit in own]))
        error += len(own) * abs(row["confidence"] - row["hits"])
    expected = error / len(seen) if seen else math.nan
    assert metrics.calibration_error(table) == pytest.approx(expected, nan_ok=True)


def test_the_calibration_error_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(3)
    sure, hits = torch.rand(400, 3, generator=generator), torch.rand(400, 3, generator=generator) < 0.7
    valid = torch.ones_like(hits)
    came = metrics.reached(hits, valid)
    table = metrics.calibration(sure, hits, valid)
    expected = binary_calibration_error(sure[came], hits[came].long(), n_bins=metrics.BINS, norm="l1")
    assert metrics.calibration_error(table) == pytest.approx(float(expected), abs=1e-6)


def test_a_case_done_by_hand():
    hits = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    found = metrics.diagnose(hits, valid)
    assert found["acceptance_by_slot"] == [3 / 4, 2 / 3, 0.0, None]
    assert found["hazard_by_slot"] == [1 / 4, pytest.approx(1 / 3), 1.0, None]
    assert found["hits_by_slot"] == [3 / 4, 3 / 4, 2 / 3, 2 / 3]
    assert found["first_rejections"] == [1, 1, 1, 0, 1]
    assert found["waste"] == 1 - 5 / 10
    product = [3 / 4, 9 / 16, 9 / 24, 9 / 36]
    assert found["expected_length_by_marginal_product"] == pytest.approx(1 + sum(product))


def test_two_halves_together_are_the_whole():
    """What ranks count adds up: first rejections of all blocks are the sums over their parts."""
    generator = torch.Generator().manual_seed(0)
    hits, valid = torch.rand(20, 4, generator=generator) < 0.7, torch.ones(20, 4).bool()
    parts = [metrics.first_rejections(hits[part], valid[part]) for part in (slice(0, 7), slice(7, 20))]
    assert metrics.first_rejections(hits, valid) == [sum(pair) for pair in zip(*parts, strict=True)]


CLASSES = {
    "whitespace": ["  \n", ""],
    "number": [" 42", "7"],
    "word": [" return", "été"],
    "code": ["x_1", " ==", "):\n", "3.14"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in CLASSES.items() for text in texts])
def test_classes_of_tokens(name, text):
    assert metrics.token_class(text) == name
