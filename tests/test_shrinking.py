"""Once no prompt waits, passes are over the rows that have not ended, and those lose nothing by it."""

import pytest
import torch
import zoo
from conftest import make_memorising, make_prompts, make_verifier, memorise, plain_generate
from test_causal import make_causal
from test_push_forward_decode import make_few

from drafter.decode import FreeDecoder, SpeculativeDecoder
from drafter.decode.slots import Slots
from drafter.models import PushForwardModel
from drafter.verifier import Verifier

LIMIT, WAITING = 14, 2
PROMPTS = make_prompts()[:6]


def hybrid():
    """A verifier with recurrent layers, and a drafter that knows some of its answers by heart."""
    verifier, prompts = (
        Verifier(zoo.build("qwen3_next").float()),
        [[3 + token % 90 for token in prompt] for prompt in PROMPTS],
    )
    known = [(prompt, plain_generate(verifier, prompt, LIMIT)) for prompt in prompts[:3]]
    return verifier, memorise(verifier, known, tap_layers=[0, 2], mask_token_id=95), {}, prompts


WAYS = {
    "plain": lambda: (make_verifier("llama"), None, {}, PROMPTS),
    "blocks": lambda: (make_verifier("llama"), make_memorising("llama"), {}, PROMPTS),
    "tree": lambda: (make_verifier("llama"), make_memorising("llama"), {"tree_nodes": 5}, PROMPTS),
    "causal": lambda: (make_verifier("llama"), make_causal("llama"), {}, PROMPTS),
    "push-forward": lambda: (*make_few(), {}, [[token % 3 for token in prompt] for prompt in PROMPTS]),
    "recurrent": hybrid,
}


@pytest.fixture
def cycles(monkeypatch):
    """Of each cycle: its slots, and how many of them had a row."""
    seen, own = [], Slots.give

    def give(slots, places, outcome):
        if outcome.drafted is not None:
            seen.append((len(outcome.tokens), sum(row is not None for row in slots.rows)))
        own(slots, places, outcome)

    monkeypatch.setattr(Slots, "give", give)
    return seen


def check_cycles(cycles, size):
    assert cycles[0] == (size, size)
    assert all(slots == rows for slots, rows in cycles[-3:])
    assert len({slots for slots, _ in cycles}) > 2  # it shrank more than once
    assert [slots for slots, _ in cycles] == sorted((slots for slots, _ in cycles), reverse=True)


@pytest.mark.parametrize("way", list(WAYS))
def test_rows_go_on_as_they_would_alone(way, cycles, monkeypatch):
    verifier, drafter, settings, prompts = WAYS[way]()
    temperature = 1.0 if way == "push-forward" else 0.0
    decoder = SpeculativeDecoder(verifier, drafter, **settings)

    def answers(batch_size):
        seeds = list(range(len(prompts)))
        made = decoder.generate(prompts, LIMIT, temperature, seed=seeds, batch_size=batch_size)
        return [(one.token_ids, one.accepted) for one in made]  # bad drafts would be lossless, too

    whole = [ids for ids, _ in answers(1)]
    ends = [whole[1][3], whole[3][7], whole[4][9]] if way != "push-forward" else []  # which has too few tokens
    monkeypatch.setattr(verifier.model.generation_config, "eos_token_id", ends or None)
    alone = answers(1)
    cycles.clear()
    size = len(prompts) - WAITING
    assert answers(size) == alone
    check_cycles(cycles, size)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_rows_without_a_verifier_go_on_as_they_would_alone(penalty, cycles, monkeypatch):
    torch.manual_seed(3)
    model = PushForwardModel.from_verifier(make_verifier("llama"), 2).eval()
    decoder = FreeDecoder(model, frequency_penalty=penalty)
    whole = [one.token_ids for one in decoder.generate(PROMPTS, LIMIT, batch_size=6)]
    monkeypatch.setattr(PushForwardModel, "stop_ids", {whole[0][5], whole[2][9], whole[5][3]})
    alone = [one.token_ids for one in decoder.generate(PROMPTS, LIMIT, batch_size=1)]
    cycles.clear()
    assert [one.token_ids for one in decoder.generate(PROMPTS, LIMIT, batch_size=4)] == alone
    check_cycles(cycles, 4)


def test_passes_of_one_shape_stay_as_they_are(cycles, monkeypatch):
    """Where passes are replayed, every size would be recorded anew."""
    own = Slots.__init__
    monkeypatch.setattr(Slots, "__init__", lambda slots, *words: own(slots, *words[:-1], True))
    verifier, drafter, *_ = WAYS["blocks"]()
    SpeculativeDecoder(verifier, drafter).generate(PROMPTS[:4], LIMIT, batch_size=4)
    assert {slots for slots, _ in cycles} == {4}
