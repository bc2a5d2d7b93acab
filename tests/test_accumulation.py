"""Micro-batches of a step add up to what it would be as one batch, in float64."""

import copy
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, make_answers, make_drafter, make_prompts, make_verifier, with_taps

from drafter.config import load
from drafter.data.rows import Row
from drafter.training.batches import Steps
from drafter.training.batches.assembly import averaged
from drafter.training.module import DrafterModule
from drafter.verifier import Verifier
from losses import BlockScores, Losses
from losses.base import Loss

SIZE, RECIPE = 5, ROOT / "recipes/tiny.yaml"
EVERY = {each.name: each.type for each in fields(Losses)}
UNKNOWN = {"first_error", "accept_until_fail"}  # their weights follow what the drafter hits


def scores(blocks, seed):
    """Blocks whose valid slots are prefixes, some empty, with every field that a loss may ask for."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(SIZE + 1, (1, blocks), generator=generator)
    valid = torch.arange(SIZE) < lengths[..., None]  # [1, A, G]

    def field():
        return torch.rand(valid.shape, generator=generator, dtype=torch.float64) * valid

    laws = {name: field() for name in ("forward_kl", "reverse_kl", "jsd")}
    return BlockScores(field(), (field() > 0.5) & valid, valid, log_acceptance=-field(), **laws)


def slots_of(scores):
    return scores.valid.sum((0, 1)).double()


@pytest.mark.parametrize("name", EVERY)
def test_a_known_weight_is_the_weights_sum(name):
    loss: Loss = EVERY[name](weight=1.0)
    for seed in range(5):
        found = scores(7, seed)
        known, weight = loss.known_weight(slots_of(found)), loss(found).weights.sum()
        assert (known is None) == (name in UNKNOWN)
        assert known is None or known.item() == pytest.approx(weight.item(), rel=1e-12)


def test_a_block_sums_weight_counts_blocks():
    loss, found = EVERY["decayed_ce"](reduction="block_sum"), scores(7, 0)
    assert loss.known_weight(slots_of(found)) == loss(found).weights.sum()


def test_three_micro_batches_have_the_gradient_of_one_batch():
    """Their answers are of many lengths; what is averaged is their mean, as a trainer does it."""
    words = ["training.anchors=8", "drafter.vocabulary=full", "losses.first_error.weight=0", "losses.dpace.weight=0.5"]
    verifier = Verifier(copy.deepcopy(make_verifier("llama").model).double())
    drafter = make_drafter(verifier).double()
    pairs = zip(make_prompts(), make_answers("llama"), strict=True)
    rows = [Row.of(prompt, answer[: 3 + 5 * number]) for number, (prompt, answer) in enumerate(pairs)]

    def gradient(rows_of_a_batch, accumulate):
        sizes = [f"training.rows={rows_of_a_batch}", f"training.accumulate={accumulate}"]
        config = load(RECIPE, [*words, *sizes])
        module = DrafterModule(config, drafter, verifier, []).double()
        module.trainer = SimpleNamespace(precision="64-true")
        steps = Steps(rows, None, config)
        batches = averaged([with_taps(steps[number], module) for number in range(accumulate)])
        drafter.zero_grad()
        for batch in batches:
            total, _ = config.losses(module.scores(batch), slots=batch.slots)
            (total / accumulate).backward()
        return [batch.supervised for batch in batches], [weight.grad.clone() for weight in drafter.parameters()]

    _, whole = gradient(6, 1)
    for shares in ((2, 3), (3, 2), (1, 6)):
        supervised, found = gradient(*shares)
        assert len(set(supervised)) > 1
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())
