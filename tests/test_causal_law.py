"""Sampling with a causal drafter has the verifier's law: by enumeration of what a rule is given, and by many draws."""

import itertools
import math

import naive
import pytest
import torch
from test_decoder_law import LENGTH, PROMPT, VOCABULARY, exact_law, p_value, pair
from transformers import AutoModelForCausalLM, Qwen2Config

from drafter import CausalDrafter, SpeculativeDecoder
from drafter.verification import LOSSLESS, speculative_sampling
from drafter.verifier import Verifier
from tests import naive_verification

CASES = {  # rule, temperature, top_p, top_k, draft length
    "match": ("match", 0.7, 1.0, 0, 2),
    "speculative": ("speculative_sampling", 1.0, 1.0, 0, 2),
    "speculative, cut laws": ("speculative_sampling", 1.2, 0.9, 2, 3),
    "block": ("block_verification", 1.0, 1.0, 0, 2),
    "block, cut laws": (None, 0.9, 0.9, 0, 3),
    "noise": ("shared_noise", 0.8, 1.0, 0, 2),
}
__all__ = ["pair"]  # the fixture


@pytest.fixture(scope="module")
def causal():
    """Of another family and width than the verifier."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return CausalDrafter(Verifier(AutoModelForCausalLM.from_config(config)))


@pytest.mark.parametrize(
    "draws", [pytest.param(10_000, id="10k"), pytest.param(200_000, id="200k", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("rule", "temperature", "top_p", "top_k", "length"), CASES.values(), ids=CASES)
def test_the_decoder_emits_the_verifiers_law(pair, causal, draws, rule, temperature, top_p, top_k, length):
    decoder = SpeculativeDecoder(pair[0], causal, rule, draft_length=length)
    found = decoder.generate([PROMPT] * draws, LENGTH, temperature, top_p, top_k, seed=5, batch_size=2000)
    law, answers = exact_law(pair[0], temperature, top_p, top_k), [tuple(one.token_ids) for one in found]
    for count in (2, 3):
        assert p_value(answers, law, count) > 1e-4
    assert len({kept for one in found for kept in one.accepted}) > 1


def test_every_rule_gets_the_laws_at_the_drafts_before_and_emits_the_verifiers(pair, causal):
    """The world that the decoder hands to a rule is the models' own, and each lossless rule has its law there."""
    verifier, models = pair[0], (naive.wide(pair[0].model), naive.wide(causal.model.model))

    def law(model, path):
        with torch.no_grad():
            return naive.law(model(input_ids=torch.tensor([[*PROMPT, *path]])).logits[0, -1], 1.5, 1.0, 0)

    seen = {}

    def watch(draft_ids, draft_probs, verifier_probs, generator):
        if not seen:
            for row, drafts in enumerate(draft_ids.tolist()):
                for slot in range(2):
                    path = (firsts[row], *drafts[:slot])
                    assert draft_probs[row, slot].tolist() == pytest.approx(law(models[1], path), abs=1e-5)
                    assert verifier_probs[row, slot].tolist() == pytest.approx(law(models[0], path), abs=1e-5)
                    seen[path] = True
        return speculative_sampling(draft_ids, draft_probs, verifier_probs, generator)

    firsts = {}
    decoder = SpeculativeDecoder(verifier, causal, watch, draft_length=2)
    decoder.generate(
        [PROMPT] * 300, 3, 1.5, batch_size=300, on_tokens=lambda row, tokens: firsts.setdefault(row, tokens[0])
    )
    assert len(seen) > 3 * VOCABULARY  # of 12, some all but impossible

    for first in range(VOCABULARY):
        paths = [path for depth in range(3) for path in itertools.product(range(VOCABULARY), repeat=depth)]
        laws = [{path: list(law(model, (first, *path))) for path in paths} for model in models]
        world = naive_verification.World(VOCABULARY, 2, laws[0], laws[1], {})
        for rule in sorted(LOSSLESS):
            emitted = naive_verification.joint(rule, world)
            for tokens in itertools.product(range(VOCABULARY), repeat=3):
                expected = math.prod(laws[0][tokens[:slot]][tokens[slot]] for slot in range(3))
                assert emitted.get(tokens, 0.0) == pytest.approx(expected, abs=1e-10)
