"""The rows of the head that a step looks at: labels always, the rest in expectation."""

import pytest
import torch
from conftest import make_verifier

from drafter.training.head import Head
from losses import score_blocks

KEPT = torch.arange(20, 260, 3)
SHAPE = (2, 3, 4)


def labels_from(ids, seed=0):
    ids = torch.as_tensor(ids)
    return ids[torch.randint(len(ids), SHAPE, generator=torch.Generator().manual_seed(seed))]


def everywhere():
    return torch.ones(SHAPE, dtype=torch.bool)


@pytest.fixture
def verifier():
    return make_verifier("llama")


@pytest.fixture
def hidden():
    return torch.randn(*SHAPE, 64, generator=torch.Generator().manual_seed(3)) / 8


def scores(verifier, hidden, vocabulary, sampled, labels, seed=0):
    drawn = Head(verifier.output, vocabulary, sampled).draw(labels, everywhere(), seed, torch.float32)
    weight, places, correction = drawn
    return score_blocks(hidden, weight, places, everywhere(), log_correction=correction)


def test_the_whole_vocabulary_is_the_whole_head(verifier):
    labels = labels_from(range(288))
    weight, places, correction = Head(verifier.output, None, 32).draw(labels, everywhere(), 0, torch.float32)
    assert torch.equal(weight, verifier.head)
    assert torch.equal(places, labels)
    assert correction is None


@pytest.mark.parametrize("sampled", [0, 1, 50, 10_000])
def test_labels_are_always_scored(verifier, sampled):
    labels = labels_from(range(288))  # many of them outside the draft vocabulary
    valid = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.7
    for seed in range(20):
        weight, places, correction = Head(verifier.output, KEPT, sampled).draw(labels, valid, seed, torch.float32)
        assert torch.equal(weight[places[valid]], verifier.head[labels[valid]])
        assert (correction[places[valid]] == 0).all()
        assert places.min() >= 0
        assert len(weight.unique(dim=0)) == len(weight)  # no token twice


def test_rows_are_kept_sampled_then_missing_labels(verifier):
    weight, _, correction = Head(verifier.output, KEPT, 32).draw(labels_from(KEPT), everywhere(), 0, torch.float32)
    assert torch.equal(weight[: len(KEPT)], verifier.head[KEPT])
    assert len(weight) == len(KEPT) + 32
    assert (correction[: len(KEPT)] == 0).all()
    torch.testing.assert_close(correction[len(KEPT) :].exp(), torch.full((32,), (288 - len(KEPT)) / 32))


def test_the_sample_is_a_function_of_the_seed(verifier):
    head = Head(verifier.output, KEPT, 32)
    one, again, other = (head.draw(labels_from(KEPT), everywhere(), seed, torch.float32)[0] for seed in (4, 4, 5))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("labelled", [KEPT.tolist(), range(288)], ids=["known labels", "any labels"])
def test_a_sample_of_everything_is_the_full_softmax(verifier, hidden, labelled):
    labels = labels_from(labelled)
    full = scores(verifier, hidden, None, 0, labels)
    torch.testing.assert_close(scores(verifier, hidden, KEPT, 288, labels).nll, full.nll)


@pytest.mark.parametrize("labelled", [KEPT.tolist(), [0, 1, 2, 281]], ids=["known labels", "missing labels"])
def test_the_expected_normaliser_is_that_of_the_full_softmax(verifier, hidden, labelled):
    """exp(nll) is normaliser over label: its mean over draws must be the full one, slot by slot."""
    labels = labels_from(labelled)
    full = scores(verifier, hidden, None, 0, labels).nll.double().exp()
    draws = torch.stack([scores(verifier, hidden, KEPT, 40, labels, seed).nll.double().exp() for seed in range(800)])
    error = (draws.mean(0) - full) / (draws.std(0) / len(draws) ** 0.5)
    assert error.abs().max() < 4.5
    assert (draws.std(0) / full).max() < 0.2  # so that an omission would be seen
    assert (scores(verifier, hidden, KEPT, 0, labels).nll.double().exp() < 0.9 * full).any()


def test_the_head_is_scored_in_the_dtype_asked_for(verifier):
    head = Head(verifier.output, KEPT, 8)
    for dtype in (torch.bfloat16, torch.float32):
        assert head.draw(labels_from(KEPT), everywhere(), 0, dtype)[0].dtype == dtype
