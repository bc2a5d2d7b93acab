"""The objective of a dynamic ensemble: by enumeration, by loops, and on a task whose optimum is known."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.models.ensemble_head import EnsembleHead, HeadConfig
from drafter.training.ensemble.policy import advantages, budget_loss, ensemble_loss, mixture_log_prob, policy_loss
from drafter.verification import dynamic_ensemble
from drafter.verification.variation_budget import budget_weight
from tests import naive_verification as naive

torch.set_num_threads(1)
TOKENS = 2


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_the_expected_gradient_is_that_of_the_expected_reward(seed):
    """Over every sequence, weighted by nu: the gradient of the loss is minus that of E[reward]."""
    world = naive.random_world(seed, 3, TOKENS)
    prefixes = {prefix: number for number, prefix in enumerate(world.drafter)}
    scores = torch.randn(len(prefixes), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    scores.requires_grad_()
    weight = scores.sigmoid()
    reward = {path: math.sin(7 * number) for number, path in enumerate(itertools.product(range(3), repeat=TOKENS))}

    loss, expected = tensor(0.0), tensor(0.0)
    for path, value in reward.items():
        of = [prefixes[path[:slot]] for slot in range(TOKENS)]
        p = tensor([world.verifier[path[:slot]][path[slot]] for slot in range(TOKENS)])
        q = tensor([world.drafter[path[:slot]][path[slot]] for slot in range(TOKENS)])
        chance = (weight[of] * p + (1 - weight[of]) * q).prod()
        expected = expected + chance * value
        if chance > 0:
            log_prob = mixture_log_prob(weight[of], p, q)
            terms = policy_loss(log_prob, log_prob.detach(), tensor(value).expand(TOKENS), clip=0.2)
            loss = loss + chance.detach() * terms.sum()
    (got,) = torch.autograd.grad(loss, scores, retain_graph=True)
    (true,) = torch.autograd.grad(-expected, scores)
    torch.testing.assert_close(got, true, rtol=1e-9, atol=1e-12)
    assert true.abs().max() > 1e-3


def roll_outs(seed, tokens=(3, 1, 4)):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.rand(sum(tokens), generator=generator, dtype=torch.float64)

    trajectory = torch.repeat_interleave(torch.arange(len(tokens)), torch.tensor(tokens))
    names = ("weight", "old_weight", "verifier", "draft", "variation")
    rewards = torch.rand(len(tokens), generator=generator, dtype=torch.float64)
    return {name: draw() for name in names} | {"trajectory": trajectory, "rewards": rewards}


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_its_definition(seed):
    given = roll_outs(seed)
    got, parts = ensemble_loss(**given, acceptance_weight=0.3, clip=0.1)
    rewards = given["rewards"].tolist()
    mean = sum(rewards) / 3
    spread = math.sqrt(sum((one - mean) ** 2 for one in rewards) / 3)
    policy = kept = 0.0
    for weight, old, p, q, variation, owner in zip(
        *(given[name].tolist() for name in ("weight", "old_weight", "verifier", "draft", "variation", "trajectory")),
        strict=True,
    ):
        gain = (rewards[owner] - mean) / spread
        ratio = (weight * p + (1 - weight) * q) / (old * p + (1 - old) * q)
        policy -= min(ratio * gain, min(max(ratio, 0.9), 1.1) * gain) / 3
        kept += (1 - weight * variation) / 3
    assert parts["policy"].item() == pytest.approx(policy, rel=1e-12)
    assert parts["acceptance"].item() == pytest.approx(kept, rel=1e-12)
    assert got.item() == pytest.approx(policy - 0.3 * kept, rel=1e-12)


def test_the_regulariser_lowers_the_weight_exactly_where_the_models_disagree():
    given = roll_outs(0)
    given["variation"][::2] = 0.0
    weight = given["weight"].requires_grad_()
    (loss, _), (without, _) = (ensemble_loss(**given, acceptance_weight=one, clip=0.2) for one in (0.5, 0.0))
    (gradient,) = torch.autograd.grad(loss - without, weight)
    torch.testing.assert_close(gradient, 0.5 * given["variation"] / 3)
    assert (gradient[1::2] > 0).all()  # descent lowers w
    assert gradient[::2].abs().max() < 1e-12


def test_a_batch_of_equal_rewards_teaches_nothing():
    """Else acceptance alone is followed, at an optimiser's full rate, until no answer is the verifier's any more."""
    given = roll_outs(1)
    given["rewards"] = torch.zeros(3, dtype=torch.float64)
    weight = given["weight"].requires_grad_()
    loss, parts = ensemble_loss(**given, acceptance_weight=0.5, clip=0.2)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss == 0
    assert parts["acceptance"] > 0
    assert not gradient.any()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rewards=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), scale=st.floats(0.01, 100), shift=st.floats(-9, 9)
)
def test_advantages_know_no_scale_and_no_offset(rewards, scale, shift):
    one, other = advantages(tensor(rewards)), advantages(scale * tensor(rewards) + shift)
    assert one.isfinite().all()
    if tensor(rewards).std(correction=0) > 1e-3:
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert one.mean().item() == pytest.approx(0, abs=1e-9)
        assert one.square().mean().item() == pytest.approx(1, abs=1e-9)


def test_advantages_are_clipped_and_absent_where_all_is_alike():
    assert advantages(tensor([0.3, 0.3, 0.3])).tolist() == [0, 0, 0]
    assert advantages(tensor([1.0] + [0.0] * 99)).max() == 5
    assert advantages(tensor([1.0] + [0.0] * 99), limit=20.0).max() > 9


def test_past_the_clip_there_is_no_gradient():
    old = tensor([0.5, 0.5, 0.5, 0.5]).log()
    new = (old + tensor([0.3, -0.3, 0.3, -0.3])).requires_grad_()
    gain = tensor([1.0, 1.0, -1.0, -1.0])
    (gradient,) = torch.autograd.grad(policy_loss(new, old, gain, clip=0.2).sum(), new)
    assert (gradient != 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.4, 1.0])
def test_the_budget_s_own_weight_has_no_loss(budget):
    variation = torch.linspace(0, 1, 21, dtype=torch.float64)
    weight = budget_weight(variation, budget).requires_grad_()
    loss = budget_loss(weight, variation, budget)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss.item() == pytest.approx(0, abs=1e-24)
    assert gradient.abs().max() < 1e-12
    other = torch.full_like(variation, 0.5)
    naive_loss = sum((0.5 * one - min(one, budget)) ** 2 for one in variation.tolist()) / 21
    assert budget_loss(other, variation, budget).item() == pytest.approx(naive_loss)


# A task with a known optimum. Every token is 0 or 1. In half of the contexts the models disagree: the verifier writes 0
# with 0.9, the drafter with 0.3. In half of *these* a 1 costs the whole reward; in the others nobody minds. The head
# sees which context it is in; the optimum weighs the verifier fully in the first and not at all in the others.
P_ZERO, Q_ZERO, LENGTH, WEIGHT = 0.9, 0.3, 8, 0.15
VARIATION = P_ZERO - Q_ZERO
KINDS = ("agree", "matters", "harmless")


def objective(weights):
    """E[reward] + a coefficient · E[accepted tokens], exactly, of the weights at (matters, harmless).

    A token's context is `agree` with 1/2, each of the others with 1/4. The loss measures rewards by their standard
    deviation, about 1/2.
    """
    matters, harmless = weights
    right = matters * P_ZERO + (1 - matters) * Q_ZERO
    reward = (0.75 + 0.25 * right) ** LENGTH
    return reward + WEIGHT / 2 * LENGTH * (1 - 0.25 * VARIATION * (matters + harmless))


@pytest.mark.parametrize("seed", range(6))
def test_the_head_learns_which_disagreements_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    head = EnsembleHead(HeadConfig(3, 3))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    own = tensor([[0.5, 0.5], [P_ZERO, 1 - P_ZERO], [P_ZERO, 1 - P_ZERO]])
    drafted = tensor([[0.5, 0.5], [Q_ZERO, 1 - Q_ZERO], [Q_ZERO, 1 - Q_ZERO]])
    rows, shares = 64, tensor([0.5, 0.25, 0.25])
    for _ in range(250):
        kinds = torch.multinomial(shares.expand(rows, 3), LENGTH, True, generator=generator)  # [R, T]
        states = torch.nn.functional.one_hot(kinds, 3).float()
        p, q = own[kinds].flatten(0, 1), drafted[kinds].flatten(0, 1)  # [R T, 2]
        old = head(states, states).detach().flatten()
        drafts = torch.multinomial(q, 1, generator=generator)
        bonus = torch.stack([p, p], 1)
        found = dynamic_ensemble(drafts, q[:, None], bonus, generator, verifier_weight=old[:, None])
        tokens = torch.where(found.accepted > 0, drafts[:, 0], found.next_token)  # [R T]
        spoilt = (tokens.view(rows, LENGTH) == 1) & (kinds == KINDS.index("matters"))
        loss, _ = ensemble_loss(
            head(states, states).flatten(),
            old,
            p.gather(1, tokens[:, None])[:, 0],
            q.gather(1, tokens[:, None])[:, 0],
            (p - q).abs().sum(-1) / 2,
            torch.arange(rows).repeat_interleave(LENGTH),
            (~spoilt.any(1)).double(),
            acceptance_weight=WEIGHT,
            clip=0.2,
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        weights = head(torch.eye(3), torch.eye(3))[1:].tolist()
    assert weights[0] > 0.85
    assert weights[1] < 0.15
    steps = [one / 20 for one in range(21)]
    best = max(objective(pair) for pair in itertools.product(steps, repeat=2))
    assert best == objective((1.0, 0.0))
    static = max(objective((one, one)) for one in steps)
    assert objective(weights) > static + 0.7 * (best - static)
