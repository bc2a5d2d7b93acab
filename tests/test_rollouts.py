"""Roll-outs of an ensemble: what is kept of each token is what both models say of it."""

import pytest
import torch
from conftest import make_memorising, make_prompts, make_relative, make_verifier

from drafter.decode import SpeculativeDecoder
from drafter.evaluation.witness import Distances, WatchedDecoder
from drafter.models import CausalDrafter
from drafter.models.ensemble_head import EnsembleHead, HeadConfig
from drafter.training.ensemble.rollouts import roll_out
from drafter.verification import make_rule, static_ensemble
from drafter.verification.laws import variation

LENGTH, TEMPERATURE = 14, 0.8
DRAFTERS = {"causal": lambda: CausalDrafter(make_relative("llama"), 3), "block": lambda: make_memorising("llama")}


def a_head(seed=0):
    head = EnsembleHead(HeadConfig(64, 64))
    with torch.no_grad():
        head.linear.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed))
    return head


def laws(model, prompt, answer):
    """The law of every token of an answer, by a plain pass in transformers' own attention; and the states, [T, D]."""
    with model.plain_attention() as plain, torch.no_grad():
        found = plain(torch.tensor([prompt + answer]), output_hidden_states=True)
    states = found.hidden_states[-1][0, len(prompt) - 1 : -1]
    return (found.logits[0, len(prompt) - 1 : -1].double() / TEMPERATURE).softmax(-1), states


@pytest.mark.parametrize("kind", DRAFTERS)
def test_what_is_kept_is_what_both_models_say(kind):
    verifier, drafter, head = make_verifier("llama"), DRAFTERS[kind](), a_head()
    prompts = [prompt for prompt in make_prompts()[:3] for _ in range(2)]
    answers, weighed = roll_out(verifier, drafter, head, prompts, LENGTH, seed=3, temperature=TEMPERATURE, batch_size=4)
    assert not any(value.is_inference() for value in vars(weighed).values())
    expected = head(weighed.drafter_hidden, weighed.verifier_hidden).double()
    torch.testing.assert_close(weighed.weight, expected, rtol=0, atol=1e-6)
    assert weighed.weight.min() < 0.3 < 0.7 < weighed.weight.max()
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        mine = weighed.trajectory == number
        p, states = laws(verifier, prompt, answer.token_ids)
        places = drafted_places(answer)
        assert int(mine.sum()) == len(places)
        tokens = torch.tensor(answer.token_ids)[places]
        assert_close(weighed.verifier[mine], p[places, tokens])
        assert_close(weighed.verifier_hidden[mine].double(), states[places].double(), 1e-3)
        if kind == "causal":
            q, own = laws(drafter.model, prompt, answer.token_ids)
            assert_close(weighed.draft[mine], q[places, tokens])
            assert_close(weighed.drafter_hidden[mine].double(), own[places].double(), 1e-3)
            assert_close(weighed.variation[mine], (p - q)[places].abs().sum(-1) / 2)


def drafted_places(answer):
    """Where an answer's tokens are drafts or corrections: not the prefill's, not behind blocks that stayed whole."""
    found, at = [], 1
    for emitted, drafted in zip(answer.emitted, answer.drafted, strict=True):
        found += range(at, at + min(emitted, drafted))
        at += emitted
    return found


def assert_close(got, expected, atol=1e-4):
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def test_a_constant_head_writes_what_the_static_ensemble_writes():
    verifier, drafter = make_verifier("llama"), DRAFTERS["causal"]()
    prompts = make_prompts()[:4]
    answers, _ = roll_out(
        verifier, drafter, EnsembleHead(HeadConfig(64, 64), 0.4), prompts, LENGTH, seed=1, batch_size=2
    )
    weight = EnsembleHead(HeadConfig(64, 64), 0.4)(torch.zeros(64), torch.zeros(64)).item()
    decoder = SpeculativeDecoder(verifier, drafter, static_ensemble(weight))
    plain = decoder.generate(prompts, LENGTH, 1.0, seed=1, batch_size=2)
    assert [one.token_ids for one in answers] == [one.token_ids for one in plain]


def test_answers_that_end_early_leave_nothing_of_others():
    """A token that ends answers often: rows come and go in the slots, and each keeps what is its own."""
    verifier, drafter = make_verifier("llama"), DRAFTERS["causal"]()
    prompts = [prompt for prompt in make_prompts() for _ in range(3)]
    free, _ = roll_out(verifier, drafter, a_head(), prompts, LENGTH, seed=2, batch_size=5)
    common = max(
        (token for one in free for token in one.token_ids[1:]), key=[t for o in free for t in o.token_ids].count
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(verifier), "stop_ids", property(lambda self: (common,)))
        answers, weighed = roll_out(verifier, drafter, a_head(), prompts, LENGTH, seed=2, batch_size=5)
    assert {one.stop for one in answers} == {"stop", "length"}
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        mine, places = weighed.trajectory == number, drafted_places(answer)
        assert int(mine.sum()) == len(places)
        if places:
            p, _ = laws(verifier, prompt, answer.token_ids)
            p = p.log().mul(TEMPERATURE).softmax(-1)  # these were drawn at temperature 1
            assert_close(weighed.verifier[mine], p[places, torch.tensor(answer.token_ids)[places]])


@pytest.mark.parametrize("rule", ["speculative_sampling", "lenient", "static_ensemble"])
def test_distances_add_up_to_those_of_the_stated_laws(rule):
    verifier, drafter = make_verifier("llama"), DRAFTERS["causal"]()
    given = {"lenient": {"lenience": 0.3}, "static_ensemble": {"verifier_weight": 0.3}}.get(rule, {})
    watching = Distances(make_rule(rule, **given), lambda p, q: variation(rule, p, q, **given), 3)
    decoder = WatchedDecoder(verifier, drafter, watching)
    prompts = make_prompts()[:3]
    answers = decoder.generate(prompts, LENGTH, TEMPERATURE, seed=4, batch_size=2)
    sums = watching.sums([len(one.token_ids) for one in answers])
    for prompt, answer, got in zip(prompts, answers, sums, strict=True):
        p, q = laws(verifier, prompt, answer.token_ids)[0], laws(drafter.model, prompt, answer.token_ids)[0]
        places = drafted_places(answer)
        expected = variation(rule, p[places][None], q[places][None], **given).sum().item()
        assert got == pytest.approx(expected, abs=1e-4)
        assert (got > 0) == (rule != "speculative_sampling")


def test_answers_without_a_drafted_token_are_refused():
    with pytest.raises(ValueError, match="max_new_tokens=1: no answer had a drafted token"):
        roll_out(make_verifier("llama"), DRAFTERS["causal"](), a_head(), make_prompts()[:1], 1, seed=0)
    with pytest.raises(ValueError, match="a prompt of 3 tokens can't run"):
        roll_out(make_verifier("llama"), DRAFTERS["causal"](), a_head(), make_prompts()[:1], 4096, seed=0)
