"""The walk: against a token-by-token simulation, and against the real decoder, cycle by cycle."""

import naive
import pytest
import torch
from conftest import NEW_TOKENS, make_drafter, make_memorising
from hypothesis import given
from hypothesis import strategies as st

from drafter.data.rows import Row, pad
from drafter.decode import SpeculativeDecoder, tokens_per_cycle
from drafter.evaluation.walk import leading_matches, walk, walk_row


@st.composite
def answers_with_drafts(draw):
    """An answer over two tokens, so that drafts often match, and 4 drafts behind each of its tokens."""
    token = st.integers(0, 1)
    answer = draw(st.lists(token, min_size=1, max_size=24))
    drafts = [draw(st.lists(token, min_size=4, max_size=4)) for _ in answer]
    return answer, drafts


def count_leading(answer, drafts):
    """What `leading_matches` finds: matches from the first slot on, as far as the answer goes."""
    found = []
    for at in range(len(answer) - 1):
        pairs = list(zip(drafts[at], answer[at + 1 :], strict=False))
        found.append(next((i for i, (draft, token) in enumerate(pairs) if draft != token), len(pairs)))
    return found


@given(case=answers_with_drafts(), draft_length=st.integers(1, 4))
def test_walk_row_decodes_the_answer(case, draft_length):
    answer, drafts = case
    assert walk_row(count_leading(answer, drafts), draft_length) == naive.cycles(answer, drafts, draft_length)


@given(leading=st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=4), draft_length=st.integers(1, 4))
def test_walk_adds_up(leading, draft_length):
    result = walk(leading, draft_length)
    cycles = sum(len(row) for row in result.emitted)
    assert [sum(row) for row in result.emitted] == [len(row) for row in leading]
    assert sum(result.kept) == sum(map(sum, result.accepted))
    assert all(kept <= reached <= cycles for kept, reached in zip(result.kept, result.reached, strict=True))
    assert result.reached == sorted(result.reached, reverse=True)
    if cycles:
        assert result.tokens_per_cycle == sum(map(len, leading)) / cycles
        assert result.accepted_per_cycle == sum(result.kept) / cycles
        assert result.kept_share == [kept / cycles for kept in result.kept]


def test_walk_on_a_case_done_by_hand():
    result = walk([[3, 0, 0, 0, 1, 0, 0], [0, 2]], 2)
    # first row: 2 kept + 1, none + 1, 1 + 1, none + 1; second: none + 1, then 1 kept, which ends it
    assert result.emitted == [[3, 1, 2, 1], [1, 1]]
    assert result.accepted == [[2, 0, 1, 0], [0, 1]]
    assert result.tokens_per_cycle == 9 / 6
    assert result.kept == [3, 1]
    assert result.reached == [6, 2]


def walk_along(verifier, drafter, prompts, answers, draft_length):
    """The walk along answers, all of them in one padded batch."""
    rows = pad([Row.of(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)])
    taps = verifier.taps(rows.ids, drafter.tap_layers).clone()
    return walk(leading_matches(drafter, verifier, rows, taps), draft_length)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("draft_length", [3, 1])
def test_walk_equals_the_decoder_cycle_by_cycle(verifier, memorising, answers, prompts, draft_length, batch_size):
    decoder = SpeculativeDecoder(verifier, memorising, draft_length=draft_length)
    found = decoder.generate(prompts, NEW_TOKENS, batch_size=batch_size)
    walked = walk_along(verifier, memorising, prompts, answers, draft_length)
    assert [one.emitted for one in found] == walked.emitted
    assert [one.accepted for one in found] == walked.accepted
    assert tokens_per_cycle(found) == walked.tokens_per_cycle > 1.2


@pytest.mark.parametrize("family", ["qwen3"])
def test_walk_equals_the_decoder_that_stops(verifier, memorising, answers, prompts, monkeypatch):
    stop = answers[1][9]
    monkeypatch.setattr(verifier.model.generation_config, "eos_token_id", [stop])
    found = SpeculativeDecoder(verifier, memorising).generate(prompts, NEW_TOKENS)
    assert len(found[1].token_ids) == 10
    walked = walk_along(verifier, memorising, prompts, [one.token_ids for one in found], 3)
    assert [one.emitted for one in found] == walked.emitted
    assert [one.accepted for one in found] == walked.accepted


@pytest.mark.parametrize("family", ["llama"])
def test_walk_equals_the_decoder_with_a_draft_vocabulary(verifier, memorising, answers, prompts, monkeypatch):
    allowed = sorted({token for answer in answers[:4] for token in answer})[::2]
    monkeypatch.setitem(memorising._buffers, "vocabulary", torch.tensor(allowed))
    found = SpeculativeDecoder(verifier, memorising).generate(prompts, NEW_TOKENS, batch_size=2)
    walked = walk_along(verifier, memorising, prompts, answers, 3)
    assert [one.emitted for one in found] == walked.emitted
    assert walked.tokens_per_cycle > 1.1


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("anchors", [1, 5, 512])
def test_passes_of_any_size_find_the_same(verifier, memorising, answers, prompts, monkeypatch, anchors):
    expected = walk_along(verifier, memorising, prompts, answers, 3)
    monkeypatch.setattr("drafter.evaluation.walk.ANCHORS_PER_PASS", anchors)
    assert walk_along(verifier, memorising, prompts, answers, 3) == expected


@pytest.mark.parametrize("family", ["llama"])
def test_longer_blocks(verifier, answers, prompts):
    drafter = make_memorising("llama", block_size=7)
    found = SpeculativeDecoder(verifier, drafter).generate(prompts, NEW_TOKENS, batch_size=3)
    assert [one.token_ids for one in found] == answers
    walked = walk_along(verifier, drafter, prompts, answers, 6)
    assert [one.emitted for one in found] == walked.emitted
    assert max(map(max, walked.accepted)) > 3


@pytest.mark.parametrize("family", ["llama"])
def test_nothing_accepted_is_one_token_per_cycle(verifier, answers, prompts, monkeypatch):
    drafter = make_drafter(verifier)
    monkeypatch.setitem(drafter._buffers, "vocabulary", torch.tensor([287]))
    rows = [answer[: answer.index(287)] if 287 in answer else answer for answer in answers]
    walked = walk_along(verifier, drafter, prompts, rows, 3)
    assert walked.tokens_per_cycle == 1.0
    assert walked.kept == [0, 0, 0]
