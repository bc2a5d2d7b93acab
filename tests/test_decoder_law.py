"""The whole decoder, sampling, has the verifier's law: chi-square over the first two and three tokens."""

from collections import Counter
from itertools import product

import naive
import pytest
import torch
from conftest import make_drafter
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, LlamaConfig

from drafter.decode import Costs, SpeculativeDecoder
from drafter.verifier import Verifier

VOCABULARY, LENGTH, PROMPT = 3, 3, [1, 0, 2]
COSTS = Costs(2.0, [10.0, 11.2, 13.5, 15.0, 16.4, 17.4, 18.6])  # not always the widest pays

CASES = {  # rule, temperature, top_p, top_k, draft vocabulary, how drafts are proposed
    "match": ("match", 0.7, 1.0, 0, None, {}),
    "match, some tokens": ("match", 1.0, 0.9, 0, [0, 2], {}),
    "speculative": ("speculative_sampling", 1.2, 0.9, 0, [0, 2], {}),
    "block": (None, 0.9, 1.0, 0, None, {}),
    "block, some tokens": ("block_verification", 1.0, 1.0, 2, [0, 1], {}),
    "noise": ("shared_noise", 0.8, 1.0, 0, None, {}),
    "block, chosen length": ("block_verification", 1.0, 1.0, 0, None, {"draft_length": "auto", "costs": COSTS}),
    "tree": (None, 1.0, 1.0, 0, None, {"tree_nodes": 5}),
    "tree, some tokens": ("match", 0.8, 0.9, 0, [0, 2], {"tree_nodes": 3}),
    "tree, chosen nodes": ("match", 1.2, 1.0, 0, None, {"tree_nodes": "auto", "costs": COSTS}),
    "tree, noise": ("shared_noise", 1.0, 1.0, 0, None, {"tree_nodes": 4}),
}


@pytest.fixture(scope="module")
def pair():
    """A verifier over three tokens, none of which ends an answer, and a drafter that is sometimes right."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, initializer_range=0.5, eos_token_id=None, bos_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        verifier = Verifier(AutoModelForCausalLM.from_config(config))
    return verifier, make_drafter(verifier, num_layers=1, block_size=3, tap_layers=[0], mask_token_id=2)


def exact_law(verifier, temperature, top_p, top_k):
    """The probability of every answer of LENGTH tokens."""
    wide = naive.wide(verifier.model)
    laws = {}
    for depth in range(LENGTH):
        for prefix in product(range(VOCABULARY), repeat=depth):
            with torch.no_grad():
                logits = wide(input_ids=torch.tensor([[*PROMPT, *prefix]])).logits[0, -1]
            laws[prefix] = naive.law(logits, temperature, top_p, top_k)
    result = {}
    for answer in product(range(VOCABULARY), repeat=LENGTH):
        result[answer] = 1.0
        for depth, token in enumerate(answer):
            result[answer] *= laws[answer[:depth]][token]
    return result


def p_value(answers, law, count):
    """Chi-square of the first `count` tokens; cells that expect fewer than 5 are one cell, impossible ones empty."""
    counts, expected = Counter(answer[:count] for answer in answers), Counter()
    for answer, probability in law.items():
        expected[answer[:count]] += probability * len(answers)
    assert all(expected[cell] > 0 for cell in counts)
    common = [cell for cell, value in expected.items() if value >= 5]
    observed, theory = [counts[cell] for cell in common], [expected[cell] for cell in common]
    if len(answers) - sum(theory) > 1:
        observed, theory = [*observed, len(answers) - sum(observed)], [*theory, len(answers) - sum(theory)]
    return chisquare(observed, theory, sum_check=False).pvalue


@pytest.mark.parametrize(
    "draws", [pytest.param(10_000, id="10k"), pytest.param(200_000, id="200k", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("rule", "temperature", "top_p", "top_k", "allowed", "proposal"), CASES.values(), ids=CASES)
def test_the_decoder_emits_the_verifiers_law(
    pair, monkeypatch, draws, rule, temperature, top_p, top_k, allowed, proposal
):
    verifier, drafter = pair
    monkeypatch.setitem(drafter._buffers, "vocabulary", None if allowed is None else torch.tensor(allowed))
    decoder = SpeculativeDecoder(verifier, drafter, rule=rule, **proposal)
    size = 400 if "costs" in proposal else 2000  # one length for a batch: in small ones it varies
    found = decoder.generate([PROMPT] * draws, LENGTH, temperature, top_p, top_k, seed=5, batch_size=size)
    law, answers = exact_law(verifier, temperature, top_p, top_k), [tuple(one.token_ids) for one in found]
    for count in (2, 3):
        assert p_value(answers, law, count) > 1e-4
    assert len({kept for one in found for kept in one.accepted}) > 1  # drafts were kept, and rejected
    lengths = {length for one in found for length in one.drafted}
    most = 2 if "draft_length" in proposal else len(COSTS.verify) - 1
    assert min(lengths) < most if "costs" in proposal else lengths == {proposal.get("tree_nodes", 2)}


def test_a_wrong_law_is_noticed(pair):
    """The statistic has the power to see a rule that is slightly off."""
    verifier, drafter = pair
    decoder = SpeculativeDecoder(verifier, drafter, rule="match")
    found = decoder.generate([PROMPT] * 20_000, LENGTH, 1.05, seed=5, batch_size=2000)
    assert p_value([tuple(one.token_ids) for one in found], exact_law(verifier, 1.0, 1.0, 0), 3) < 1e-4


def test_answers_are_a_function_of_the_seed(pair):
    decoder = SpeculativeDecoder(*pair, rule="speculative_sampling")
    runs = [decoder.generate([PROMPT] * 20, 12, temperature=1.0, seed=seed, batch_size=4) for seed in (1, 1, 2)]
    ids = [[one.token_ids for one in run] for run in runs]
    assert ids[0] == ids[1] != ids[2]
    assert len({tuple(one) for one in ids[0]}) > 10  # and rows of a batch do not share their numbers
