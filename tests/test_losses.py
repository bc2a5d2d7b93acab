"""Every objective, value and gradient, against its definition in `naive_losses`; then what the definitions promise."""

import math

import naive_losses as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from losses import (
    JSD,
    LK,
    AcceptUntilFail,
    BlockScores,
    ChainReward,
    DecayedCE,
    DPace,
    FirstError,
    ForwardKL,
    Losses,
    OverlapChain,
    ReverseKL,
    Term,
    TotalVariation,
    score_blocks,
    slot_decay,
)

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
    "dpace": (DPace(), lambda blocks: naive.dpace(blocks, 0.5)),
    "dpace_plain": (DPace(smoothing=0), lambda blocks: naive.dpace(blocks, 0.0)),
    "accept_until_fail": (AcceptUntilFail(), lambda blocks: naive.accept_until_fail(blocks, None)),
    "accept_until_fail_decayed": (
        AcceptUntilFail(decay_slots=4.0),
        lambda blocks: naive.accept_until_fail(blocks, 4.0),
    ),
}
DISTANCES = {
    "forward_kl": (ForwardKL(), lambda slot: naive.kl(slot.verifier, slot.drafter)),
    "reverse_kl": (ReverseKL(), lambda slot: naive.kl(slot.drafter, slot.verifier)),
    "jsd": (JSD(), naive.jsd),
    "total_variation": (TotalVariation(), naive.total_variation),
    "lk_alpha": (LK(), lambda slot: -torch.log(naive.overlap(slot))),
    "lk_hybrid": (LK(variant="hybrid", eta=3.0), lambda slot: naive.lk_hybrid(slot, 3.0)),
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


def laws(shape, dtype=torch.float64, width=4):
    """Another head and its hidden states: a verifier."""
    generator = torch.Generator().manual_seed(11)
    verifier_hidden = torch.randn(*shape, width, dtype=torch.float64, generator=generator).to(dtype)
    return verifier_hidden, torch.randn(13, width, dtype=torch.float64, generator=generator).to(dtype)


def score_with_verifier(problem, verifier, needs, temperature=1.0):
    verifier_hidden, verifier_head = verifier
    options = {"verifier_hidden": verifier_hidden, "verifier_head": verifier_head, "temperature": temperature}
    return score_blocks(*problem, chunk_size=4, needs=needs, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["f64", "f32"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("case", [*DISTANCES, "overlap_chain"])
def test_divergences_match_their_definition(case, shape, temperature, dtype, tolerance):
    loss = OverlapChain() if case == "overlap_chain" else DISTANCES[case][0]
    hidden, head, labels, valid = problem(shape, "holes", dtype)
    verifier = laws(shape, dtype)
    got = loss(score_with_verifier((hidden, head, labels, valid), verifier, loss.needs, temperature)).mean()
    (gradient,) = torch.autograd.grad(got, hidden)
    wide = hidden.detach().double().requires_grad_()
    blocks = naive.make_blocks(wide, head, labels, valid, *verifier, temperature)
    expected = -naive.overlap_chain(blocks) if case == "overlap_chain" else naive.slot_mean(blocks, DISTANCES[case][1])
    (expected_gradient,) = torch.autograd.grad(expected, wide)
    torch.testing.assert_close(got.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance)


def test_several_divergences_and_nll_together_are_the_sum_of_each():
    shape = (2, 3, 5)
    inputs = problem(shape, "holes")
    objective = Losses(
        total_variation=TotalVariation(2.0, decay_slots=3.0),
        lk=LK(0.7, variant="hybrid"),
        overlap_chain=OverlapChain(5.0),
    )
    assert objective.needs == {"nll", "log_acceptance", "forward_kl"}
    scores = score_with_verifier(inputs, laws(shape), objective.needs)
    total, terms = objective(scores)
    (gradient,) = torch.autograd.grad(total, inputs[0], retain_graph=True)
    blocks = naive.make_blocks(*inputs, *laws(shape))
    expected = {
        "decayed_ce": naive.decayed_ce(blocks, 10.0, "mean"),
        "first_error": naive.first_error(blocks, 10.0),
        "chain_reward": -naive.chain_reward(blocks),
        "total_variation": naive.slot_mean(blocks, naive.total_variation, 3.0),
        "lk": naive.slot_mean(blocks, lambda slot: naive.lk_hybrid(slot, 3.0)),
        "overlap_chain": -naive.overlap_chain(blocks),
    }
    assert set(terms) == set(expected)
    whole = sum(getattr(objective, name).weight * value for name, value in expected.items())
    torch.testing.assert_close(total, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(whole, inputs[0], retain_graph=True)[0], rtol=1e-9, atol=1e-9
    )
    norms = objective.gradient_norms(scores)
    for name, value in expected.items():
        (gradient,) = torch.autograd.grad(value, inputs[0], retain_graph=True)
        torch.testing.assert_close(norms[name], gradient.norm(), rtol=1e-9, atol=1e-12)


def test_total_variation_and_acceptance_agree_and_identical_laws_are_at_distance_zero():
    shape = (2, 3, 5)
    inputs = problem(shape, "full")
    names = {"log_acceptance", "forward_kl", "reverse_kl", "jsd"}
    scores = score_with_verifier(inputs, laws(shape), names)
    acceptance = scores.log_acceptance.exp()
    torch.testing.assert_close(TotalVariation()(scores).values, 1 - acceptance, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        acceptance.flatten(),
        torch.stack([naive.overlap(slot) for block in naive.make_blocks(*inputs, *laws(shape)) for slot in block]),
    )
    same = score_blocks(*inputs, needs=names, verifier_hidden=inputs[0].detach())
    total = sum(getattr(same, name) for name in names).sum()
    assert total.item() == pytest.approx(0, abs=1e-9)
    total.backward()
    assert inputs[0].grad.abs().max() < 1e-9


def test_laws_that_do_not_meet_still_have_a_gradient():
    hidden, head, labels, valid = problem((1, 1, 3), "full", torch.float32)
    hidden = (hidden.detach() * 300).requires_grad_()
    scores = score_blocks(hidden, head, labels, valid, needs={"log_acceptance"}, verifier_hidden=-hidden.detach())
    loss = LK()(scores).mean()
    loss.backward()
    assert loss > 200  # beyond the smallest float32
    assert hidden.grad.isfinite().all()
    assert (hidden.grad.norm(dim=-1) > 1e-3).all()


def test_dpace_without_smoothing_has_the_gradient_of_the_chain_reward_times_minus_length():
    generator = torch.Generator().manual_seed(0)
    nll = torch.rand(2, 3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    scores = BlockScores(nll, nll > 2, torch.rand(2, 3, 7, generator=generator) < 0.8)
    (weighted,) = torch.autograd.grad(DPace(smoothing=0)(scores).values.sum(), nll)
    (chained,) = torch.autograd.grad(-ChainReward()(scores).values.sum(), nll)
    torch.testing.assert_close(weighted, -7 * chained, rtol=1e-12, atol=1e-15)


def test_accept_until_fail_keeps_the_failure_and_a_whole_block_without_one():
    hit = torch.tensor([[[True, False, False], [True, True, True]]])
    assert AcceptUntilFail()(scores_of(hit.double(), hit)).weights.tolist() == [[[1, 1, 0], [1, 1, 1]]]


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


@pytest.mark.parametrize("cap", [0.1, 1.0, 1e6])
def test_a_capped_gradient_is_at_most_a_multiple_of_the_others(cap):
    hidden, head, labels, valid = problem((3, 2, 15), "prefix")
    losses = Losses(DecayedCE(2.0), FirstError(0.3), ChainReward(40.0, gradient_cap=cap))
    total, _ = losses(score_blocks(hidden, head, labels, valid))
    (found,) = torch.autograd.grad(total, hidden)
    blocks = naive.make_blocks(hidden, head, labels, valid)
    others = 2 * naive.decayed_ce(blocks, 10.0, "mean") + 0.3 * naive.first_error(blocks, 10.0)
    (others,) = torch.autograd.grad(others, hidden, retain_graph=True)
    (chain,) = torch.autograd.grad(-naive.chain_reward(blocks), hidden)
    weight = min(40.0, cap * others.norm().item() / chain.norm().item())
    assert (weight < 40) == (cap <= 1)
    torch.testing.assert_close(found, others + weight * chain, rtol=1e-9, atol=1e-12)


def test_a_cap_where_nothing_is_valid_changes_nothing():
    hidden, head, labels, valid = problem((2, 3, 5), "none")
    total, _ = Losses(chain_reward=ChainReward(gradient_cap=1.0))(score_blocks(hidden, head, labels, valid))
    total.backward()
    assert total == 0
    assert not hidden.grad.any()


def test_gradient_norms_need_hidden_states():
    with pytest.raises(ValueError, match="gradient norms need the slots' hidden states"):
        Losses().gradient_norms(scores_of([1.0, 2.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FirstError(weight=-0.5), r"losses.first_error.weight=-0.5: must be finite and >= 0"),
        (lambda: ChainReward(weight=math.nan), r"losses.chain_reward.weight=nan: must be finite"),
        (lambda: ChainReward(warmup_steps=-1), r"losses.chain_reward.warmup_steps=-1: must be >= 0"),
        (lambda: ChainReward(gradient_cap=0.0), r"losses.chain_reward.gradient_cap=0.0: must be finite and > 0"),
        (
            lambda: Losses(first_error=FirstError(gradient_cap=1.0), chain_reward=ChainReward(gradient_cap=1.0)),
            r"losses.\w+.gradient_cap: is measured against the other losses' gradient; cap one loss",
        ),
        (
            lambda: Losses(DecayedCE(0), FirstError(0), ChainReward(gradient_cap=1.0)),
            r"losses.chain_reward.gradient_cap: is measured against .* at least one that is not capped",
        ),
        (lambda: FirstError(decay_slots=0.0), r"losses.first_error.decay_slots=0.0: must be > 0, or null"),
        (lambda: DecayedCE(decay_slots=-1.0), r"losses.decayed_ce.decay_slots=-1.0: must be > 0, or null"),
        (lambda: DecayedCE(reduction="sum"), r"losses.decayed_ce.reduction=sum: must be one of mean, block_sum"),
        (lambda: Losses(DecayedCE(0), FirstError(None), ChainReward(0)), r"losses: none has a weight above 0; set"),
        (lambda: DPace(smoothing=1.5), r"losses.dpace.smoothing=1.5: must be in 0..1"),
        (lambda: LK(variant="beta"), r"losses.lk.variant=beta: must be one of alpha, hybrid"),
        (lambda: LK(eta=-1.0), r"losses.lk.eta=-1.0: must be >= 0"),
        (lambda: JSD(decay_slots=0.0), r"losses.jsd.decay_slots=0.0: must be > 0"),
        (lambda: JSD()(scores_of([1.0])), r"losses.jsd needs BlockScores.jsd: score with Losses.needs"),
        (lambda: OverlapChain()(scores_of([1.0])), r"losses.overlap_chain needs BlockScores.log_acceptance"),
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
