"""Every objective, value and gradient, against its definition in `naive_losses`; then what the definitions promise."""

import math

import naive_losses as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from losses import BlockScores, ChainReward, DecayedCE, FirstError, Losses, Term, score_blocks, slot_decay

torch.set_num_threads(1)

SHAPES = [(1, 1, 1), (2, 3, 5), (3, 2, 15)]  # B, A, G
PRECISION = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
CASES = {
    "uniform": (DecayedCE(decay_slots=None), lambda blocks: naive.decayed_ce(blocks, None, "mean")),
    "decayed": (DecayedCE(decay_slots=3.0), lambda blocks: naive.decayed_ce(blocks, 3.0, "mean")),
    "block_sum": (
        DecayedCE(decay_slots=10.0, reduction="block_sum"),
        lambda blocks: naive.decayed_ce(blocks, 10.0, "block_sum"),
    ),
    "first_error": (FirstError(decay_slots=10.0), lambda blocks: naive.first_error(blocks, 10.0)),
    "first_error_uniform": (FirstError(decay_slots=None), lambda blocks: naive.first_error(blocks, None)),
    "chain_reward": (ChainReward(), lambda blocks: -naive.chain_reward(blocks)),
}


def problem(shape, validity, dtype=torch.float64, seed=0, scale=1.0):
    """Hidden states, head, labels and validity of a batch in which two slots of three are hits."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*shape, 6, dtype=torch.float64, generator=generator) * scale
    hidden = hidden.to(dtype).requires_grad_()
    head = torch.randn(13, 6, dtype=torch.float64, generator=generator).to(dtype)
    best = (hidden.detach() @ head.T).argmax(-1)
    labels = torch.where(
        torch.rand(shape, generator=generator) < 2 / 3, best, torch.randint(13, shape, generator=generator)
    )
    length = torch.randint(shape[-1] + 1, (*shape[:-1], 1), generator=generator)  # blocks cut by their answer's end
    index = torch.arange(shape[-1])
    valid = {
        "full": torch.ones(shape, dtype=torch.bool),
        "prefix": index < length,
        "holes": torch.rand(shape, generator=generator) < 0.7,
        "row_without": torch.ones(shape, dtype=torch.bool).index_fill(0, torch.tensor([0]), False),
        "none": torch.zeros(shape, dtype=torch.bool),
    }[validity]
    if validity != "none":
        labels[-1, -1] = best[-1, -1]  # a block without an error
    return hidden, head, labels, valid


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["f64", "f32"])
@pytest.mark.parametrize("validity", ["full", "prefix", "holes", "row_without", "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_match_the_definition(case, shape, validity, dtype, tolerance):
    loss, definition = CASES[case]
    hidden, head, labels, valid = problem(shape, validity, dtype)
    got = loss(score_blocks(hidden, head, labels, valid, chunk_size=4)).mean()
    (gradient,) = torch.autograd.grad(got, hidden)
    wide = hidden.detach().double().requires_grad_()
    expected = definition(naive.make_blocks(wide, head, labels, valid))
    expected_gradient = torch.autograd.grad(expected, wide)[0] if expected.requires_grad else torch.zeros_like(wide)
    torch.testing.assert_close(got.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [1e-6, 1e4], ids=["p_near_1/V", "p_near_0_or_1"])
def test_no_nan_at_extreme_probabilities(case, scale):
    hidden, head, labels, valid = problem((3, 4, 15), "holes", torch.float32, scale=scale)
    value = CASES[case][0](score_blocks(hidden, head, labels, valid)).mean()
    value.backward()
    assert value.isfinite()
    assert hidden.grad.isfinite().all()


def scores_of(nll, hit=None, valid=None):
    """[G] or [B, A, G] negative log-likelihoods as BlockScores."""
    nll = torch.as_tensor(nll, dtype=torch.float64)
    nll = nll.reshape(1, 1, -1) if nll.dim() < 3 else nll
    hit = torch.zeros(nll.shape, dtype=torch.bool) if hit is None else torch.as_tensor(hit).reshape(nll.shape)
    valid = torch.ones(nll.shape, dtype=torch.bool) if valid is None else torch.as_tensor(valid).reshape(nll.shape)
    return BlockScores(nll, hit, valid)


def test_slot_decay_starts_at_one():
    torch.testing.assert_close(slot_decay(3, 2.0), torch.tensor([1.0, math.exp(-0.5), math.exp(-1.0)]))
    assert slot_decay(3, None).tolist() == [1, 1, 1]
    assert slot_decay(15, 10.0).sum().item() == pytest.approx(8.16, abs=0.005)


def test_first_error_is_one_slot_per_block_and_blocks_without_an_error_do_not_dilute():
    nll = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]]])
    hit = torch.tensor([[[True, False, False], [True, True, True]]])
    term = FirstError(decay_slots=None)(scores_of(nll, hit))
    assert term.weights.tolist() == [[[0, 1, 0], [0, 0, 0]]]
    assert term.mean() == 2


def test_a_slot_behind_a_hole_adds_nothing_to_the_chain():
    assert ChainReward()(scores_of([0.0, 0.0, 0.0], valid=[True, False, True])).mean().item() == pytest.approx(-1 / 3)


def test_chain_reward_by_finite_differences():
    nll = torch.tensor([0.2, 1.0, 0.05, 3.0], dtype=torch.float64)
    free = nll.clone().requires_grad_()
    ChainReward()(scores_of(free)).mean().backward()
    for slot in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[slot] = 1e-6
        up, down = (ChainReward()(scores_of(nll + sign * step)).mean().item() for sign in (1, -1))
        assert free.grad[slot].item() == pytest.approx((up - down) / 2e-6, rel=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=16))
def test_chain_reward_lies_in_0_1_and_an_earlier_slot_never_pulls_less(nll):
    free = torch.tensor(nll, dtype=torch.float64, requires_grad=True)
    loss = ChainReward()(scores_of(free)).mean()
    loss.backward()
    assert 0 <= -loss.item() <= 1 + 1e-12
    assert (free.grad >= 0).all()
    assert (free.grad.diff() <= 1e-15).all()


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(0, 2**31))
def test_invalid_blocks_and_what_they_hold_change_nothing(case, seed):
    hidden, head, labels, valid = problem((2, 3, 5), "holes", seed=seed)
    few = score_blocks(hidden, head, labels, valid)
    rest = torch.full((2, 1, 5), math.inf, dtype=torch.float64)
    more = BlockScores(
        torch.cat([rest, few.nll], 1),
        torch.cat([rest > 0, few.hit], 1),
        torch.cat([rest < 0, few.valid], 1),
    )
    loss = CASES[case][0]
    torch.testing.assert_close(loss(more).mean(), loss(few).mean(), rtol=1e-12, atol=0)


def test_a_mean_without_weight_is_zero_with_zero_gradient():
    values = torch.tensor([1.0, math.inf], requires_grad=True)
    mean = Term(values, torch.zeros(2)).mean()
    mean.backward()
    assert mean == 0
    assert values.grad.tolist() == [0, 0]


def test_objective_is_the_weighted_sum_and_a_reward_is_logged_as_one():
    hidden, head, labels, valid = problem((3, 2, 15), "prefix")
    losses = Losses(DecayedCE(2.0), FirstError(None), ChainReward(3.0))
    total, terms = losses(score_blocks(hidden, head, labels, valid))
    blocks = naive.make_blocks(hidden, head, labels, valid)
    ce, reward = naive.decayed_ce(blocks, 10.0, "mean"), naive.chain_reward(blocks)
    assert set(terms) == {"decayed_ce", "chain_reward"}
    torch.testing.assert_close(terms["chain_reward"], reward, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(total, 2 * ce - 3 * reward, rtol=1e-9, atol=1e-9)


def test_what_is_off_is_not_computed(monkeypatch):
    monkeypatch.setattr(FirstError, "__call__", lambda *_: pytest.fail("computed"))
    hidden, head, labels, valid = problem((2, 3, 5), "full")
    Losses(first_error=FirstError(0))(score_blocks(hidden, head, labels, valid))


def test_warmup_raises_the_coefficient_linearly_from_zero():
    hidden, head, labels, valid = problem((2, 3, 5), "full")
    scores = score_blocks(hidden, head, labels, valid)
    losses = Losses(DecayedCE(1.0), FirstError(0), ChainReward(4.0, warmup_steps=10))
    reward = losses(scores)[1]["chain_reward"]
    ce = losses(scores)[1]["decayed_ce"]
    for step, coefficient in [(0, 0), (5, 2), (10, 4), (99, 4), (None, 4)]:
        torch.testing.assert_close(losses(scores, step)[0], ce - coefficient * reward, rtol=1e-12, atol=1e-12)


def test_gradient_norms_are_those_of_each_term_in_the_hidden_states():
    hidden, head, labels, valid = problem((3, 2, 15), "prefix")
    scores = score_blocks(hidden, head, labels, valid)
    norms = Losses()(scores) and Losses().gradient_norms(scores)
    blocks = naive.make_blocks(hidden, head, labels, valid)
    for name, value in {
        "decayed_ce": naive.decayed_ce(blocks, 10.0, "mean"),
        "first_error": naive.first_error(blocks, 10.0),
        "chain_reward": naive.chain_reward(blocks),
    }.items():
        (gradient,) = torch.autograd.grad(value, hidden, retain_graph=True)
        torch.testing.assert_close(norms[name], gradient.norm(), rtol=1e-9, atol=0)
    Losses()(scores)[0].backward()  # the graph is still there


def test_gradient_norms_need_hidden_states():
    with pytest.raises(ValueError, match="gradient norms need the slots' hidden states"):
        Losses().gradient_norms(scores_of([1.0, 2.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FirstError(weight=-0.5), r"losses.first_error.weight=-0.5: must be finite and >= 0"),
        (lambda: ChainReward(weight=math.nan), r"losses.chain_reward.weight=nan: must be finite"),
        (lambda: ChainReward(warmup_steps=-1), r"losses.chain_reward.warmup_steps=-1: must be >= 0"),
        (lambda: FirstError(decay_slots=0.0), r"losses.first_error.decay_slots=0.0: must be > 0, or null"),
        (lambda: DecayedCE(decay_slots=-1.0), r"losses.decayed_ce.decay_slots=-1.0: must be > 0, or null"),
        (lambda: DecayedCE(reduction="sum"), r"losses.decayed_ce.reduction=sum: must be one of mean, block_sum"),
        (lambda: Losses(DecayedCE(0), FirstError(None), ChainReward(0)), r"losses: none has a weight above 0; set"),
        (
            lambda: BlockScores(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)),
            r"valid \[1, 2, 4\]: all three must be of one shape \[B, A, G\]",
        ),
    ],
)
def test_misuse_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_recipe_configures_the_losses():
    schema = OmegaConf.structured(Losses)
    recipe = OmegaConf.create({"first_error": {"weight": None}, "decayed_ce": {"decay_slots": None}})
    losses = OmegaConf.to_object(OmegaConf.merge(schema, recipe, OmegaConf.from_dotlist(["chain_reward.weight=7"])))
    assert losses == Losses(DecayedCE(decay_slots=None), FirstError(None), ChainReward(7.0))
    assert set(losses.active) == {"decayed_ce", "chain_reward"}
    with pytest.raises(ValueError, match="must be one of"):
        OmegaConf.to_object(OmegaConf.merge(schema, {"decayed_ce": {"reduction": "sum"}}))
