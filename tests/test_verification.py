"""What callers rely on: shapes, greedy decoding, seeds, rows, names and errors."""

import pytest
import torch

from drafter.verification import LOSSLESS, RULE_MAKERS, RULES, make_rule
from tests import naive_verification as naive

torch.set_num_threads(1)

GREEDY_SAFE = [*naive.LOSSLESS, "lenient", "typical_acceptance"]  # from one-hot laws they decode as the verifier does


def example(rows=64, slots=4, vocabulary=7, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    draft_probs = (2 * torch.randn(rows, slots, vocabulary, generator=generator)).softmax(-1)
    verifier_probs = (2 * torch.randn(rows, slots + 1, vocabulary, generator=generator)).softmax(-1)
    draft_ids = torch.multinomial(
        torch.cat([draft_probs, verifier_probs[:, -1:]], 1).flatten(0, 1), 1, generator=generator
    )
    return draft_ids.view(rows, slots + 1)[:, :slots], draft_probs.to(dtype), verifier_probs.to(dtype)


def keywords(name, draft_ids, seed=5):
    rows, slots = draft_ids.shape
    numbers = torch.rand(rows, slots + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"dynamic_ensemble": {"verifier_weight": numbers[:, :-1]}, "shared_noise": {"noise": numbers}}.get(name, {})


def call(name, draft_ids, draft_probs, verifier_probs, seed=0, **more):
    rule = make_rule(name, **naive.CASES[name])
    more = {**keywords(name, draft_ids), **more}
    return rule(draft_ids, draft_probs, verifier_probs, torch.Generator().manual_seed(seed), **more)


def as_list(result):
    return torch.stack([result.accepted, result.next_token], 1).tolist()


def test_every_rule_has_a_case_and_a_name():
    assert set(naive.CASES) == {*RULES, *RULE_MAKERS}
    assert set(naive.LOSSLESS) == LOSSLESS
    assert not set(RULES) & set(RULE_MAKERS)


@pytest.mark.parametrize("name", naive.CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_result_is_long_and_in_range(name, dtype):
    result = call(name, *example(dtype=dtype))
    for value, end in ((result.accepted, 5), (result.next_token, 7)):
        assert value.dtype == torch.long
        assert value.shape == (64,)
        assert ((value >= 0) & (value < end)).all()


@pytest.mark.parametrize("name", naive.CASES)
def test_without_drafts_the_bonus_law_is_sampled(name):
    _, _, verifier_probs = example(slots=4)
    nothing = torch.zeros(64, 0, dtype=torch.long)
    result = call(name, nothing, torch.zeros(64, 0, 7), verifier_probs[:, :1])
    assert as_list(call(name, nothing, None, verifier_probs[:, :1])) == as_list(result)
    assert (result.accepted == 0).all()
    assert len(result.next_token.unique()) > 1
    one_hot = torch.nn.functional.one_hot(torch.arange(64) % 7, 7).float()
    assert (call(name, nothing, torch.zeros(64, 0, 7), one_hot[:, None]).next_token == torch.arange(64) % 7).all()


@pytest.mark.parametrize("name", GREEDY_SAFE)
@pytest.mark.parametrize("drafts", ["soft", "one_hot", "impossible"])
def test_one_hot_verifier_is_greedy_decoding(name, drafts):
    draft_ids, draft_probs, verifier_probs = example(rows=500, vocabulary=3)
    best = verifier_probs.argmax(-1)
    if drafts == "one_hot":
        draft_ids = torch.where(torch.arange(500)[:, None] % 2 == 0, draft_ids, best[:, :-1])
        draft_probs = torch.nn.functional.one_hot(draft_ids, 3).float()
    if drafts == "impossible":  # the drafter's law is not the one its drafts came from
        draft_probs = torch.zeros_like(draft_probs)
    leading = (draft_ids == best[:, :-1]).long().cumprod(-1).sum(-1)
    expected = torch.stack([leading, best.gather(1, leading[:, None]).squeeze(1)], 1).tolist()
    assert {row[0] for row in expected} == {0, 1, 2, 3, 4}
    one_hot = torch.nn.functional.one_hot(best, 3).float()
    for seed in range(3):
        assert as_list(call(name, draft_ids, draft_probs, one_hot, seed)) == expected


@pytest.mark.parametrize("name", naive.CASES)
def test_a_seed_decides_everything(name):
    inputs = example()
    assert as_list(call(name, *inputs, seed=1)) == as_list(call(name, *inputs, seed=1))
    if name != "shared_noise":
        assert as_list(call(name, *inputs, seed=1)) != as_list(call(name, *inputs, seed=2))


@pytest.mark.parametrize("name", naive.CASES)
def test_the_global_generator_is_left_alone(name):
    before = torch.get_rng_state()
    call(name, *example())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", naive.CASES)
def test_a_row_does_not_depend_on_the_others(name):
    inputs, others = example(seed=0), example(seed=9)
    odd = torch.arange(64) % 2 == 1
    mixed = [
        torch.where(odd.view(-1, *[1] * (one.ndim - 1)), two, one) for one, two in zip(inputs, others, strict=True)
    ]
    before, after = as_list(call(name, *inputs)), as_list(call(name, *mixed))
    assert before[::2] == after[::2]
    assert before != after


@pytest.mark.parametrize("name", naive.CASES)
def test_a_short_row_ignores_what_it_did_not_draft(name):
    draft_ids, draft_probs, verifier_probs = example()
    length = torch.arange(64) % 5
    before = call(name, draft_ids, draft_probs, verifier_probs, draft_length=length)
    assert (before.accepted <= length).all()
    empty = torch.arange(5) >= length[:, None]  # drafted slots; the verifier's law at slot `length` is the bonus
    past = torch.arange(5) > length[:, None]
    other_ids, other_draft, other_verifier = example(seed=3)
    after = call(
        name,
        torch.where(empty[:, :-1], other_ids, draft_ids),
        torch.where(empty[:, :-1, None], other_draft, draft_probs),
        torch.where(past[..., None], other_verifier, verifier_probs),
        draft_length=length,
    )
    assert as_list(after) == as_list(before)


@pytest.mark.parametrize(
    "rule",
    [
        make_rule("lenient", lenience=1.0),
        make_rule("static_ensemble", verifier_weight=1.0),
        make_rule("variation_budget", budget=0.0),
    ],
)
def test_the_strict_end_of_a_lossy_rule_is_speculative_sampling(rule):
    inputs = example(rows=2000)
    strict = make_rule("speculative_sampling")(*inputs, torch.Generator().manual_seed(0))
    assert as_list(rule(*inputs, torch.Generator().manual_seed(0))) == as_list(strict)


@pytest.mark.parametrize(
    "rule", [make_rule("static_ensemble", verifier_weight=0.0), make_rule("variation_budget", budget=1.0)]
)
def test_the_loose_end_of_a_mixture_emits_every_draft(rule):
    assert (rule(*example(rows=2000), torch.Generator().manual_seed(0)).accepted == 4).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
def test_greedy_ensemble_follows_the_argmax_of_the_mixture(weight):
    draft_ids, draft_probs, verifier_probs = example(rows=300)
    best = verifier_probs.argmax(-1)
    best[:, :-1] = (weight * verifier_probs[:, :-1] + (1 - weight) * draft_probs).argmax(-1)
    leading = (draft_ids == best[:, :-1]).long().cumprod(-1).sum(-1)
    expected = torch.stack([leading, best.gather(1, leading[:, None]).squeeze(1)], 1).tolist()
    generator = torch.Generator()
    static = make_rule("static_ensemble", verifier_weight=weight, greedy=True)
    assert as_list(static(draft_ids, draft_probs, verifier_probs, generator)) == expected
    weights = torch.full(draft_ids.shape, weight)
    dynamic = make_rule("dynamic_ensemble")
    got = dynamic(draft_ids, draft_probs, verifier_probs, generator, verifier_weight=weights, greedy=True)
    assert as_list(got) == expected


@pytest.mark.parametrize("budget", [0.0, 0.2, 0.5, 1.0])
def test_the_greedy_budget_follows_the_argmax_of_its_mixture(budget):
    draft_ids, draft_probs, verifier_probs = example(rows=300, dtype=torch.float64)
    expected = []
    for row in range(300):
        accepted, own = 0, []
        for slot in range(4):
            p, q = verifier_probs[row, slot].tolist(), draft_probs[row, slot].tolist()
            distance = naive.total_variation(p, q)
            blend = naive.mix(1 - min(1.0, budget / distance), p, q)
            own.append(max(range(7), key=blend.__getitem__))
        own.append(verifier_probs[row, 4].argmax().item())
        while accepted < 4 and own[accepted] == draft_ids[row, accepted]:
            accepted += 1
        expected.append([accepted, own[accepted]])
    rule = make_rule("variation_budget", budget=budget, greedy=True)
    for seed in range(2):
        assert as_list(rule(draft_ids, draft_probs, verifier_probs, torch.Generator().manual_seed(seed))) == expected


def test_greedy_lenience_accepts_what_is_near_the_maximum():
    draft_ids, _, verifier_probs = example(rows=300)
    expected = []
    for row in range(300):
        accepted = 0
        while accepted < 4:
            law = verifier_probs[row, accepted]
            if law[draft_ids[row, accepted]] < 0.3 * law.max():
                break
            accepted += 1
        expected.append([accepted, verifier_probs[row, accepted].argmax().item()])
    rule = make_rule("lenient", lenience=0.3, greedy=True)
    assert as_list(rule(draft_ids, None, verifier_probs, torch.Generator())) == expected


@pytest.mark.parametrize("name", ["match", "typical_acceptance", "shared_noise"])
def test_drafts_without_a_law(name):
    draft_ids, draft_probs, verifier_probs = example()
    assert as_list(call(name, draft_ids, None, verifier_probs)) == as_list(
        call(name, draft_ids, draft_probs, verifier_probs)
    )


@pytest.mark.parametrize("name", sorted(set(naive.CASES) - {"match", "typical_acceptance", "shared_noise"}))
def test_rules_that_need_a_law_say_so(name):
    draft_ids, _, verifier_probs = example()
    with pytest.raises(ValueError, match=f"{name}: draft_probs=None: .* 'match'"):
        call(name, draft_ids, None, verifier_probs)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("lenient", {"lenience": 0}, r"lenient.lenience=0: must be in \(0, 1\]"),
        ("lenient", {"lenience": 1.5}, r"lenient.lenience=1.5"),
        ("static_ensemble", {"verifier_weight": -0.1}, r"static_ensemble.verifier_weight=-0.1: must be in \[0, 1\]"),
        ("variation_budget", {"budget": float("nan")}, r"variation_budget.budget=nan: must be in \[0, 1\]"),
        ("typical_acceptance", {"epsilon": 2}, r"typical_acceptance.epsilon=2: must be in \[0, 1\]"),
        ("typical_acceptance", {"delta": 0}, r"typical_acceptance.delta=0: must be > 0"),
        ("lenient", {"l": 0.5}, r"rule='lenient': .*'l'"),
        ("match", {"lenience": 0.5}, r"rule='match': takes no parameters, remove lenience"),
        ("speculative", {}, r"rule='speculative': no such rule, did you mean 'speculative_sampling'\?"),
        ("blockverification", {}, r"did you mean 'block_verification'\?"),
    ],
)
def test_wrong_names_and_parameters(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **parameters)


@pytest.mark.parametrize("name", naive.CASES)
def test_wrong_shapes(name):
    draft_ids, draft_probs, verifier_probs = example()
    with pytest.raises(ValueError, match=f"{name}: verifier_probs has shape"):
        call(name, draft_ids, draft_probs, verifier_probs[:, :-1])
    with pytest.raises(ValueError, match=f"{name}: draft_probs has shape"):
        call(name, draft_ids, draft_probs[..., :-1], verifier_probs)
    with pytest.raises(ValueError, match=f"{name}: draft_length has shape"):
        call(name, draft_ids, draft_probs, verifier_probs, draft_length=torch.ones(3))


def test_wrong_keywords():
    draft_ids, draft_probs, verifier_probs = example()
    for name, more, message in [
        ("dynamic_ensemble", {"verifier_weight": torch.ones(64, 5)}, "verifier_weight has shape"),
        ("dynamic_ensemble", {"verifier_weight": torch.full((64, 4), 1.2)}, r"verifier_weight has values outside \[0"),
        ("shared_noise", {"noise": torch.ones(64, 4)}, "noise has shape"),
        ("shared_noise", {"noise": torch.ones(64, 5)}, r"noise has values outside \[0, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(name, draft_ids, draft_probs, verifier_probs, **more)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", naive.CASES)
def test_a_seed_decides_the_same_on_cuda(name):
    inputs = example(dtype=torch.float64)
    moved = {key: value.cuda() for key, value in keywords(name, inputs[0]).items()}
    assert as_list(call(name, *(value.cuda() for value in inputs), **moved)) == as_list(call(name, *inputs))
    rule = make_rule(name, **naive.CASES[name])
    rule(*(value.cuda() for value in inputs), torch.Generator("cuda").manual_seed(0), **moved)
