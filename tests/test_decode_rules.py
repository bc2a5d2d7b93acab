"""Rules that need more than laws, run by the decoder: kept noise, weights of an ensemble, forms for temperature 0."""

import pytest
import torch
from conftest import make_answers, make_drafter, make_memorising, make_prompts, make_verifier

from drafter.decode import SpeculativeDecoder
from drafter.verification import lenient, make_rule, match, static_ensemble, typical_acceptance, variation_budget
from drafter.verification.ensemble import dynamic_ensemble
from tests import naive_verification as naive

SETTINGS = {"max_new_tokens": 20, "temperature": 0.7, "top_p": 0.95, "seed": 3, "batch_size": 3}


def decode(rule, drafter=True, prompts=None, draft_length=None, verifier_weight=None, **settings):
    """Token ids and accepted counts of each prompt."""
    known = make_memorising("llama") if drafter is True else drafter
    decoder = SpeculativeDecoder(make_verifier("llama"), known, rule, draft_length, verifier_weight=verifier_weight)
    found = decoder.generate(prompts or make_prompts()[:4], **(SETTINGS | settings))
    return [one.token_ids for one in found], [one.accepted for one in found]


def test_with_kept_noise_answers_are_a_function_of_the_seed_alone():
    plain, _ = decode("shared_noise", drafter=None, temperature=0.1)
    assert plain != decode("shared_noise", drafter=None, temperature=0.1, seed=4)[0]
    other = make_drafter(make_verifier("llama"))
    for changes in ({}, {"draft_length": 1}, {"batch_size": 1}, {"drafter": None, "batch_size": 4}, {"drafter": other}):
        ids, accepted = decode("shared_noise", temperature=0.1, **changes)
        assert ids == plain
        if changes.get("drafter", True) is True:
            assert sum(map(sum, accepted)) > 5


def test_weights_of_an_ensemble_by_number_and_by_function():
    batch_size = 2
    for weight, same in ((1.0, "speculative_sampling"), (0.6, static_ensemble(0.6))):
        expected = decode(same, batch_size=batch_size)
        assert decode(dynamic_ensemble, verifier_weight=weight, batch_size=batch_size) == expected

        def constant(drafts, states, weight=weight):
            assert drafts.shape == states.shape == (len(drafts), 3, 64)
            assert 1 <= len(drafts) <= batch_size
            return torch.full(drafts.shape[:2], weight)

        assert decode("dynamic_ensemble", verifier_weight=constant, batch_size=batch_size) == expected
    _, accepted = decode("dynamic_ensemble", verifier_weight=0.0, batch_size=batch_size)
    assert all(count == 3 for row in accepted for count in row[:-1])


def test_the_weighing_function_sees_the_states_behind_both_laws():
    verifier, seen = make_verifier("llama"), []

    def weigh(drafts, states):
        seen.append([drafts.clone(), states.clone()])
        return torch.full(drafts.shape[:2], 0.5)

    def rule(draft_ids, draft_probs, verifier_probs, generator, *, verifier_weight):
        for states, laws in zip(seen[-1], (draft_probs, verifier_probs[:, :-1]), strict=True):
            torch.testing.assert_close((verifier.logits(states) / 0.7).softmax(-1), laws)
        assert (verifier_weight == 0.5).all()
        return match(draft_ids, draft_probs, verifier_probs, generator)

    SpeculativeDecoder(verifier, make_memorising("llama"), rule, verifier_weight=weigh).generate(
        make_prompts()[:2], 8, temperature=0.7
    )
    assert len(seen) >= 2


def greedy_answers():
    return [answer[: SETTINGS["max_new_tokens"]] for answer in make_answers("llama")[:4]]


def laws_along(prompt, answer):
    """The verifier's law at temperature 1 of each token of an answer, by one plain pass."""
    with make_verifier("llama").plain_attention() as model, torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 : -1].softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("lenience", [0.03, 0.005])
def test_greedy_lenience_keeps_what_is_near_the_maximum(lenience, batch_size):
    ids, accepted = decode(lenient(lenience), temperature=0, batch_size=batch_size)
    assert ids != greedy_answers()
    for prompt, answer, counts in zip(make_prompts()[:4], ids, accepted, strict=True):
        laws = laws_along(prompt, answer)
        kept = [False]
        for count in counts:
            kept += [True] * count + [False]
        for law, token, drafted in zip(laws, answer, kept, strict=False):
            assert law[token] >= (lenience * law.max() if drafted else law.max()) * (1 - 1e-4)
    strict, lax = decode("match", temperature=0)[1], decode(lenient(0.001), temperature=0)[1]
    assert sum(map(sum, lax)) / sum(map(len, lax)) > sum(map(sum, strict)) / sum(map(len, strict))


@pytest.mark.parametrize("rule", [lenient(1.0), static_ensemble(1.0), typical_acceptance(), variation_budget(0.0)])
def test_the_strict_end_is_plain_greedy(rule):
    assert decode(rule, temperature=0, batch_size=3)[0] == greedy_answers()


@pytest.mark.parametrize("rule", [lenient(0.03), static_ensemble(0.4), variation_budget(0.6)])
def test_greedy_forms_take_unadjusted_laws(rule):
    plain = decode(rule, temperature=0, top_p=1.0)
    assert plain[0] != greedy_answers()
    assert decode(rule, temperature=0, top_k=1, top_p=0.1) == plain
    made_greedy = type(rule)(rule, greedy=True)  # a partial of a partial
    assert decode(made_greedy, temperature=0) == plain
    with pytest.raises(ValueError, match=r"temperature=0\.7: the rule was made with greedy=True; use temperature 0"):
        decode(made_greedy)


@pytest.mark.parametrize("name", naive.CASES)
def test_at_temperature_0_no_rule_tosses_a_coin(name):
    rule, weight = make_rule(name, **naive.CASES[name]), 0.5 if name == "dynamic_ensemble" else None
    once, again = (decode(rule, temperature=0, verifier_weight=weight, seed=seed) for seed in (0, 1))
    assert once == again


def test_without_a_drafter_every_rule_samples_the_verifier():
    plain = decode("match", drafter=None)
    for rule in (None, "block_verification", lenient(0.1), static_ensemble(0.0)):
        assert decode(rule, drafter=None) == plain


def test_sampling_verifies_blocks_unless_told_otherwise():
    assert decode(None) == decode("block_verification") != decode("match")
    assert decode(None, temperature=0)[0] == greedy_answers()


@pytest.mark.parametrize(
    ("rule", "weight", "message"),
    [
        ("dynamic_ensemble", None, "verifier_weight=None: goes with the rule dynamic_ensemble, and with no other"),
        ("match", 0.5, "verifier_weight=0.5: goes with the rule dynamic_ensemble"),
        (None, 0.5, "verifier_weight=0.5: goes with the rule dynamic_ensemble"),
        ("dynamic_ensemble", 1.5, r"verifier_weight=1.5: must be in \[0, 1\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(rule, weight, message):
    with pytest.raises(ValueError, match=message):
        SpeculativeDecoder(make_verifier("llama"), make_memorising("llama"), rule, verifier_weight=weight)
