"""The rules' formulas have the laws their docstrings state: enumeration and one-step properties, no sampling."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.verification.base import accept_probability, inverse_cdf, residual, total_variation
from drafter.verification.block import prefix_accept_probability, prefix_weights
from drafter.verification.ensemble import mixture
from drafter.verification.laws import variation
from drafter.verification.typical import typical_threshold
from drafter.verification.variation_budget import budget_weight
from tests import naive_verification as naive

torch.set_num_threads(1)

SHAPES = [(2, 1), (2, 3), (3, 2), (4, 1), (3, 3), (4, 2)]


def tensor(law):
    return torch.tensor(law, dtype=torch.float64)


@pytest.mark.parametrize(("vocabulary", "slots"), SHAPES)
@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
@pytest.mark.parametrize("rule", naive.CASES)
def test_joint_law_is_the_stated_one(rule, parallel, vocabulary, slots):
    for seed in range(3):
        world = naive.random_world(seed, vocabulary, slots, parallel=parallel)
        got = naive.joint(rule, world, **naive.CASES[rule])
        for tokens, probability in naive.stated_joint(rule, world, **naive.CASES[rule]).items():
            assert got.get(tokens, 0.0) == pytest.approx(probability, abs=1e-10)


def test_block_verification_accepts_no_fewer_tokens():
    gains = []
    for seed, (vocabulary, slots) in itertools.product(range(25), SHAPES):
        world = naive.random_world(seed, vocabulary, slots)
        block = naive.tokens_per_cycle("block_verification", world)
        gains.append(block - naive.tokens_per_cycle("speculative_sampling", world))
        assert gains[-1] >= -1e-12
        if slots == 1:
            assert gains[-1] == pytest.approx(0, abs=1e-12)
    assert max(gains) > 0.02


def test_the_papers_two_symbol_example():
    paths = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    verifier, drafter = {path: [1 / 3, 2 / 3] for path in paths}, {path: [2 / 3, 1 / 3] for path in paths[:3]}
    world = naive.World(2, 2, verifier, drafter, {})
    assert naive.tokens_per_cycle("speculative_sampling", world) - 1 == pytest.approx(10 / 9)
    assert naive.tokens_per_cycle("block_verification", world) - 1 == pytest.approx(11 / 9)


def test_speculative_sampling_accepts_no_fewer_tokens_than_match():
    for seed in range(25):
        world = naive.random_world(seed, 3, 2)
        token = naive.tokens_per_cycle("speculative_sampling", world)
        assert token >= naive.tokens_per_cycle("match", world) - 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_enumerated_ones(seed):
    world = naive.random_world(seed, 4, 3)
    for path in list(naive.paths_drawn(world, 3))[::9]:
        verifier = [world.verifier[path[:slot]] for slot in range(4)]
        draft = [world.drafter[path[:slot]] for slot in range(3)]
        kept = [tensor([law[token] for law, token in zip(laws, path, strict=False)]) for laws in (verifier, draft)]
        chances, _, laws = naive.plan("speculative_sampling", world, path)
        assert accept_probability(*kept).tolist() == pytest.approx(chances, abs=1e-12)
        for slot in range(3):
            got = residual(tensor(verifier[slot]), tensor(draft[slot])).tolist()
            assert got == pytest.approx(laws[slot], abs=1e-12)

        chances, _, laws = naive.plan("block_verification", world, path)
        weights = prefix_weights(kept[0][None], kept[1][None])[0]
        for prefix in range(1, 4):
            after = tensor(draft[prefix]) if prefix < 3 else torch.zeros(4)
            got = prefix_accept_probability(weights[prefix, None], tensor(verifier[prefix])[None], after[None])
            assert got.item() == pytest.approx(chances[prefix - 1], abs=1e-12)


# One-step properties. Laws hold zeros, ties and numbers down to the smallest double.
sizes = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 5e-324, 1e-310, 1e-300, 1e-17, 0.5, 1.0]))
pairs = (
    st.integers(1, 6)
    .flatmap(lambda vocabulary: st.tuples(*[st.lists(sizes, min_size=vocabulary, max_size=vocabulary)] * 2))
    .filter(lambda pair: all(sum(law) > 1e-290 for law in pair))
)


def laws_of(pair):
    return [tensor(law) / tensor(law).sum() for law in pair]


def check(got, expected, atol=1e-12):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pair=pairs, fraction=st.floats(0, 1))
def test_one_step_laws(pair, fraction):
    p, q = laws_of(pair)
    rest = residual(p, q)
    assert (rest >= 0).all()
    assert rest.sum().item() == pytest.approx(1)
    distance = total_variation(p, q).item()

    kept = q * accept_probability(p, q)
    check(kept + (1 - kept.sum()) * rest, p)
    assert kept.sum().item() == pytest.approx(1 - distance, abs=1e-12)

    blend = mixture(fraction, p, q)
    kept = q * accept_probability(blend, q)
    check(kept + (1 - kept.sum()) * rest, blend)
    assert kept.sum().item() == pytest.approx(1 - fraction * distance, abs=1e-12)

    lenience = max(fraction, 1e-3)
    kept = q * accept_probability(p, lenience * q)
    emitted = kept + (1 - kept.sum()) * rest
    assert (emitted <= p / lenience + 1e-12).all()
    over = q >= p / lenience
    check(emitted[over], (p / lenience)[over])
    moderate = (q >= p) & ~over
    check(emitted[moderate], q[moderate])
    between = p > q
    assert ((emitted >= q - 1e-12) & (emitted <= p + 1e-12))[between].all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pair=pairs, budget=st.floats(0, 1))
def test_budget_bounds_the_total_variation(pair, budget):
    p, q = laws_of(pair)
    distance = total_variation(p, q)
    weight = budget_weight(distance, budget)
    assert 0 <= weight <= 1
    kept = q * accept_probability(mixture(weight, p, q), q)
    emitted = kept + (1 - kept.sum()) * residual(p, q)
    assert total_variation(emitted, p).item() <= budget + 1e-12
    assert total_variation(emitted, p).item() == pytest.approx(min(budget, distance.item()), abs=1e-12)
    assert 1 - kept.sum().item() == pytest.approx(max(0, distance.item() - budget), abs=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pair=pairs, weight=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])))
def test_block_pieces_are_probabilities(pair, weight):
    p, q = laws_of(pair)
    scaled = tensor([weight])
    chance = prefix_accept_probability(scaled, p[None], q[None])
    assert 0 <= chance.item() <= 1
    check(prefix_accept_probability(scaled, p[None], torch.zeros_like(q)[None]), scaled)
    weights = prefix_weights(p[None], q[None])
    assert ((weights >= 0) & (weights <= 1)).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pair=pairs)
def test_float32_laws_lose_no_mass(pair):
    p, q = (law.float() for law in laws_of(pair))
    kept = q.double() * accept_probability(p, q)
    check(kept + (1 - kept.sum()) * residual(p, q), p.double(), atol=1e-6)


noises = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pair=pairs, noise=noises, scale=st.sampled_from([1.0, 3.7]))
def test_inverse_cdf_gives_the_interval_that_holds_the_noise(pair, noise, scale):
    law, _ = laws_of(pair)
    token = inverse_cdf(scale * law, tensor(noise)).item()
    assert law[token] > 0
    assert math.fsum(law[:token]) <= noise + 1e-12
    assert math.fsum(law[: token + 1]) >= noise - 1e-12


def test_noise_maps_to_the_worked_joint_of_three_blocks():
    first = tensor([1 / 3, 2 / 3, 0])
    second = tensor([[0, 1, 0], [0.5, 0, 0.5]])  # after A, after B
    noise = tensor([[0, 0.9], [0.33, 0.2], [1 / 3, 0.4], [0.99, 0], [0.5, 0.5], [1 - 2**-53, 1 - 2**-53]])
    one = inverse_cdf(first.expand(6, 3), noise[:, 0])
    two = inverse_cdf(second[one], noise[:, 1])
    assert ["ABC"[a] + "ABC"[b] for a, b in zip(one, two, strict=True)] == ["AB", "AB", "BA", "BA", "BC", "BC"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pair=pairs, epsilon=st.floats(0.01, 1), delta=st.floats(0.01, 2))
def test_typical_threshold_is_the_enumerated_one(pair, epsilon, delta):
    law, _ = laws_of(pair)
    entropy = -math.fsum(p * math.log(p) for p in law.tolist() if p > 0)
    expected = min(epsilon, delta * math.exp(-entropy))
    assert typical_threshold(law, epsilon, delta).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", naive.CASES)
def test_the_distance_of_each_rule_is_that_of_its_stated_law(name):
    for seed in range(6):
        world = naive.random_world(seed, 4, 2)
        prefixes = list(world.drafter)
        verifier, draft = (
            tensor([laws[prefix] for prefix in prefixes])[:, None] for laws in (world.verifier, world.drafter)
        )
        given = dict(naive.CASES[name])
        if name == "dynamic_ensemble":
            given = {"verifier_weight": tensor([world.weight[prefix] for prefix in prefixes])[:, None]}
        got = variation(name, verifier, draft, **given)
        for prefix, value in zip(prefixes, got[:, 0].tolist(), strict=True):
            law = naive.stated_law(name, world, prefix, **naive.CASES[name])
            assert value == pytest.approx(naive.total_variation(law, world.verifier[prefix]), abs=1e-12)
