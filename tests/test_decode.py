"""Greedy decoding, token for token against transformers' own `generate`; how cycles, stops and errors are counted."""

import naive
import numpy as np
import pytest
import torch
import zoo
from conftest import NEW_TOKENS, make_drafter, make_memorising, make_prompts, make_verifier

from drafter.decode import Generation, SpeculativeDecoder, tokens_per_cycle
from drafter.decode.proposers import BlockDiffusionProposer
from drafter.models import CausalDrafter
from drafter.verification import LOSSLESS, lenient, make_rule
from drafter.verifier import Verifier, tiny


def ids(generations):
    return [one.token_ids for one in generations]


def check_counts(generation, with_drafts):
    """What must hold of any answer without an error."""
    assert sum(generation.emitted) == len(generation.token_ids) - 1  # the first token is the prefill's
    assert generation.verifier_calls == len(generation.emitted) + 1
    assert len(generation.accepted) == len(generation.emitted)
    assert all(tokens == kept + 1 for tokens, kept in zip(generation.emitted[:-1], generation.accepted, strict=False))
    assert generation.seconds > 0
    if not with_drafts:
        assert set(generation.accepted) <= {0}


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_generate_itself_is_plain_greedy(verifier, answers, prompts):
    """The reference of the tests below, against whole passes in float64 without any cache."""
    wide = naive.wide(verifier.model)
    assert naive.greedy(wide, prompts[0], 12) == answers[0][:12]
    assert naive.greedy(wide, prompts[1], 5) == answers[1][:5]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_without_drafts_equals_generate(verifier, answers, prompts, batch_size):
    found = SpeculativeDecoder(verifier).generate(prompts, NEW_TOKENS, batch_size=batch_size)
    assert ids(found) == answers
    for one in found:
        check_counts(one, with_drafts=False)
        assert one.stop == "length"


@pytest.mark.parametrize("batch_size", [1, 5])
def test_with_drafts_equals_generate(verifier, memorising, answers, prompts, batch_size):
    found = SpeculativeDecoder(verifier, memorising).generate(prompts, NEW_TOKENS, batch_size=batch_size)
    assert ids(found) == answers
    for one in found:
        check_counts(one, with_drafts=True)
    kept = {count for one in found for count in one.accepted[:-1]}
    assert {0, 3} < kept  # none, all, and some


def test_a_ragged_batch_of_eight_is_each_row_alone(verifier, memorising, prompts, monkeypatch):
    """Rows of all lengths that end at different times, and two that wait for room."""
    many = [*prompts, *(prompt[::-1] for prompt in prompts[:4])]
    alone = [SpeculativeDecoder(verifier).generate([prompt], 12)[0].token_ids for prompt in many]
    monkeypatch.setattr(verifier.model.generation_config, "eos_token_id", [alone[1][4], alone[3][7]])
    expected = []
    for answer in alone:
        ends = [at for at, token in enumerate(answer) if token in verifier.stop_ids]
        expected.append(answer[: ends[0] + 1] if ends else answer)
    assert len({len(answer) for answer in expected}) > 2
    for drafter in (None, memorising):
        assert ids(SpeculativeDecoder(verifier, drafter).generate(many, 12, batch_size=8)) == expected


@pytest.mark.parametrize("batch_size", [1, 3])
def test_bad_drafts_cost_nothing_but_calls(verifier, answers, prompts, batch_size):
    drafter = make_drafter(verifier)
    found = SpeculativeDecoder(verifier, drafter).generate(prompts[:3], NEW_TOKENS, batch_size=batch_size)
    assert ids(found) == answers[:3]


@pytest.mark.parametrize("family", ["qwen3"])
@pytest.mark.parametrize("draft_length", [0, 1, 2])
def test_shorter_drafts_are_prefixes(verifier, memorising, answers, prompts, draft_length):
    found = SpeculativeDecoder(verifier, memorising, draft_length=draft_length).generate(prompts, NEW_TOKENS)
    assert ids(found) == answers
    kept = {count for one in found for count in one.accepted[:-1]}
    assert kept == set(range(draft_length + 1))


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_prompts_are_prefilled_in_chunks(verifier, memorising, answers, prompts, monkeypatch):
    monkeypatch.setattr("drafter.decode.pair.PREFILL_CHUNK", 8)
    found = SpeculativeDecoder(verifier, memorising).generate(prompts, NEW_TOKENS, batch_size=3)
    assert ids(found) == answers
    assert tokens_per_cycle(found[:4]) > 1.8


@pytest.mark.parametrize("family", ["llama"])
def test_a_restricted_vocabulary_is_still_lossless(verifier, answers, prompts, monkeypatch):
    drafter = make_memorising("llama")
    allowed = sorted({token for answer in answers[:4] for token in answer})[::2]
    monkeypatch.setitem(drafter._buffers, "vocabulary", torch.tensor(allowed))
    drafted = []
    propose = BlockDiffusionProposer.propose
    monkeypatch.setattr(
        BlockDiffusionProposer, "propose", lambda *a, **b: drafted.append(propose(*a, **b)) or drafted[-1]
    )
    found = SpeculativeDecoder(verifier, drafter).generate(prompts, NEW_TOKENS, batch_size=2)
    assert ids(found) == answers
    assert {token for step in drafted for token in step.ids.flatten().tolist()} <= set(allowed)
    assert tokens_per_cycle(found[:4]) > 1.2


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("rule", sorted(LOSSLESS - {"shared_noise"}))
def test_lossless_rules_agree_when_greedy(verifier, memorising, answers, prompts, rule):
    decoder = SpeculativeDecoder(verifier, memorising, rule=make_rule(rule))
    found = decoder.generate(prompts, NEW_TOKENS, batch_size=2)
    assert ids(found) == answers
    assert tokens_per_cycle(found[:4]) > 1.8


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("cut", range(1, 9))
def test_stop_tokens_cut_cycles(verifier, memorising, answers, prompts, monkeypatch, cut):
    """Each place in a cycle where an answer may stop: in the prefill, at a draft, at the verifier's own token."""
    stop = answers[0][cut - 1]
    monkeypatch.setattr(verifier.model.generation_config, "eos_token_id", [stop])
    for batch_size in (1, 3):
        found = SpeculativeDecoder(verifier, memorising).generate(prompts[:3], NEW_TOKENS, batch_size=batch_size)
        for one, answer in zip(found, answers[:3], strict=True):
            end = answer.index(stop) + 1 if stop in answer else len(answer)
            assert one.token_ids == answer[:end]
            assert one.stop == ("stop" if stop in answer else "length")
            check_counts(one, with_drafts=True)
            if one.emitted:
                assert one.accepted[-1] in (one.emitted[-1] - 1, one.emitted[-1])


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6])
def test_limits_cut_cycles(verifier, memorising, answers, prompts, limit):
    found = SpeculativeDecoder(verifier, memorising).generate(prompts, limit, batch_size=2)
    assert ids(found) == [answer[:limit] for answer in answers]
    for one in found:
        check_counts(one, with_drafts=True)
        assert one.stop == "length"


@pytest.mark.parametrize("family", ["llama"])
def test_stop_tokens_inside_prompts_do_not_stop(verifier, memorising):
    prompt = [5, 0, 9, 0]
    expected = naive.greedy(naive.wide(verifier.model), prompt, 6)
    assert SpeculativeDecoder(verifier, memorising).generate([prompt], 6)[0].token_ids == expected


@pytest.mark.parametrize("family", ["llama"])
def test_tokens_stream_as_they_are_found(verifier, memorising, answers, prompts):
    streamed = [[] for _ in prompts]
    ended = {}
    found = SpeculativeDecoder(verifier, memorising).generate(
        prompts,
        NEW_TOKENS,
        batch_size=2,
        on_tokens=lambda index, tokens: streamed[index].append(list(tokens)),
        on_end=lambda index, generation: ended.setdefault(index, list(generation.token_ids)),
    )
    for one, parts, answer in zip(found, streamed, answers, strict=True):
        assert [len(part) for part in parts] == [1, *one.emitted]
        assert [token for part in parts for token in part] == answer
    assert ended == dict(enumerate(answers))


@pytest.mark.parametrize("family", ["llama"])
def test_text_prompts_are_tokenised(verifier):
    decoder = SpeculativeDecoder(verifier)
    text = "def f(x):"
    assert (
        decoder.generate([text], 5)[0].token_ids == decoder.generate([verifier.tokenizer.encode(text)], 5)[0].token_ids
    )


@pytest.mark.parametrize("family", ["llama"])
def test_a_prompt_that_cannot_run_says_so_and_the_others_go_on(verifier, memorising, answers, prompts):
    bad = {
        "the prompt is empty": [],
        f"2040 prompt tokens + max_new_tokens={NEW_TOKENS} exceed the context of 2048": [5] * 2040,
        "prompt token 288 is no id of the verifier, 0 to 287": [5, 288],
        "prompt token -1 is no id of the verifier, 0 to 287": [-1, 5],
        "the prompt can't be read ('float' object cannot be interpreted as an integer)": [5, 1.5],
        "the prompt can't be read ('int' object is not iterable)": 7,
    }
    ended = []
    found = SpeculativeDecoder(verifier, memorising).generate(
        [*bad.values(), prompts[0], "\ud800"], NEW_TOKENS, batch_size=3, on_end=lambda index, _: ended.append(index)
    )
    assert [one.stop for one in found[:-2]] == list(bad)
    assert found[-2].token_ids == answers[0]
    assert found[-1].stop.startswith("the prompt can't be read (")
    assert all(one.token_ids == [] for one in [*found[:-2], found[-1]])
    assert sorted(ended) == list(range(len(bad) + 2))


@pytest.mark.parametrize("family", ["llama"])
def test_the_whole_context_can_be_used(verifier, memorising, monkeypatch):
    prompt = torch.randint(3, 259, (90,), generator=torch.Generator().manual_seed(5)).tolist()
    monkeypatch.setattr(verifier.config, "max_position_embeddings", 96)
    plain = SpeculativeDecoder(verifier).generate([prompt], 6)[0]
    assert SpeculativeDecoder(verifier, memorising).generate([prompt], 6)[0].token_ids == plain.token_ids
    assert len(plain.token_ids) == 6
    assert "exceed the context of 96" in SpeculativeDecoder(verifier).generate([prompt], 7)[0].stop


DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "max_position_embeddings": 32}


@pytest.mark.parametrize(("family", "settings"), [("gpt2", {"n_positions": 32}), ("llama", DYNAMIC)])
@pytest.mark.parametrize("kind", ["chain", "tree", "causal"])
def test_drafts_past_the_context_ask_for_no_position_there(family, settings, kind):
    """Learned positions have none, and some rotations of whole rows would change with them."""
    verifier = Verifier(zoo.build(family, **settings))
    drafter = make_drafter(verifier, tap_layers=[0], mask_token_id=95).double()
    if kind == "causal":
        drafter = CausalDrafter(Verifier(zoo.build(family, seed=1, **settings)))
    prompts = [[5, 6, 7] * 8, [8] * 27]
    found = SpeculativeDecoder(verifier, drafter, tree_nodes=12 if kind == "tree" else None).generate(
        prompts, 5, batch_size=2
    )
    assert ids(found) == [naive.greedy(verifier.model, prompt, 5, verifier.stop_ids) for prompt in prompts]
    assert {len(one.token_ids) for one in found} == {5}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "settings", [{}, {"tree_nodes": 4}, {"rule": "shared_noise"}, {"rule": "speculative_sampling"}], ids=str
)
def test_logits_that_are_no_numbers_end_in_a_line(temperature, settings, monkeypatch):
    """Behind the prompt, and where they come later."""
    verifier, told = Verifier(*tiny.build("llama")), "^prompt 0: the model's logits behind it are no numbers"
    decoder, law = SpeculativeDecoder(verifier, make_drafter(verifier), **settings), verifier.logits

    def overflow(hidden):
        logits = law(hidden)
        return logits if hidden.dim() == 2 and later else logits.index_fill(-1, torch.tensor([7]), torch.nan)

    monkeypatch.setattr(verifier, "logits", overflow)
    monkeypatch.setattr(decoder.proposer, "logits", law)
    for later in (False, True):
        seen = []
        with pytest.raises(ValueError, match=told):
            decoder.generate(
                [[5, 6]], 9, temperature, stop=["x"], on_tokens=lambda _, tokens, seen=seen: seen.extend(tokens)
            )
        assert len(seen) == later


def test_no_prompts_give_no_answers():
    assert SpeculativeDecoder(make_verifier("llama")).generate([]) == []


@pytest.mark.parametrize("draft_length", [-1, 4])
def test_draft_lengths_out_of_range_are_refused(draft_length):
    with pytest.raises(ValueError, match=f"draft_length={draft_length}: the drafter proposes at most 3"):
        SpeculativeDecoder(make_verifier("llama"), make_memorising("llama"), draft_length=draft_length)


NAN, INFINITE = float("nan"), float("inf")
WRONG = [
    {"max_new_tokens": 0},
    {"max_new_tokens": 2.5},
    {"batch_size": 0},
    {"batch_size": "2"},
    {"temperature": -1.0},
    {"temperature": NAN},
    {"temperature": INFINITE},
    {"temperature": 1e-9},  # would overflow
    {"top_p": 0.0},
    {"top_p": NAN},
    {"top_k": -1},
    {"top_k": 1.5},
    {"seed": 0.5},
    {"seed": "12"},
    {"seed": None},
    {"seed": 1 << 64},
    {"seed": [-(1 << 63) - 1]},
    {"seed": [1, 2]},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}[=:]"):
        SpeculativeDecoder(make_verifier("llama")).generate([[1, 2]], **wrong)


def test_numbers_of_any_type_are_numbers():
    verifier, drafter, prompts = make_verifier("llama"), make_drafter(make_verifier("llama")), [[5, 6], [7]]

    def answers(number, fraction):
        decoder = SpeculativeDecoder(verifier, drafter, draft_length=number(2))
        settings = {"temperature": fraction(0.5), "top_p": fraction(0.75), "top_k": number(20), "batch_size": number(2)}
        found = decoder.generate(prompts, number(6), seed=number(3), **settings)
        each = decoder.generate(prompts, number(6), seed=np.array([1, 2]) if number is np.int64 else [1, 2], **settings)
        return [ids(found), ids(each)]

    assert answers(np.int64, np.float64) == answers(int, float)


@pytest.mark.parametrize("rule", [None, "match", "speculative_sampling", "shared_noise", "lenient"])
def test_an_answer_follows_from_its_seed_and_index_alone(rule):
    """Not from the batch, the other prompts' lengths or when a row found room."""
    verifier, prompts = make_verifier("llama"), make_prompts()
    made = lenient(0.5) if rule == "lenient" else rule
    decoder = SpeculativeDecoder(verifier, make_drafter(verifier), made)
    settings = {"temperature": 0.6, "seed": 4}
    alone = ids(decoder.generate(prompts, 12, **settings))
    for batch_size in (2, 6):
        assert ids(decoder.generate(prompts, 12, batch_size=batch_size, **settings)) == alone
    assert ids(decoder.generate(prompts[:2], 12, batch_size=2, **settings)) == alone[:2]
    each = decoder.generate(prompts[::-1], 12, temperature=0.6, seed=[9, 8, 7, 6, 5, 4], batch_size=4)
    assert ids(decoder.generate(prompts[:1], 12, temperature=0.6, seed=[4])) == ids(each)[-1:]
    same = decoder.generate([prompts[0]] * 6, 12, batch_size=3, **settings)
    assert len({tuple(one) for one in ids(same)}) == 6


@pytest.mark.parametrize("family", ["llama"])
def test_what_the_generation_config_asks_for_in_vain_is_told_once(verifier, monkeypatch, caplog):
    monkeypatch.setattr("drafter.decode.decoder._told", set())
    SpeculativeDecoder(verifier)
    assert caplog.text == ""
    monkeypatch.setattr(verifier.model.generation_config, "repetition_penalty", 1.05)
    monkeypatch.setattr(verifier.model.generation_config, "temperature", 0.7)  # the caller's to choose
    for _ in range(2):
        SpeculativeDecoder(verifier)
    assert caplog.text.count("asks for repetition_penalty=1.05: not applied, answers follow the plain law") == 1


def test_tokens_per_cycle_sums_over_prompts():
    one, other = Generation(emitted=[4, 4, 1]), Generation(emitted=[1])
    assert one.tokens_per_cycle == 3
    assert tokens_per_cycle([one, other]) == 10 / 4  # not the mean of 3 and 1
    assert torch.tensor(tokens_per_cycle([Generation()])).isnan()
