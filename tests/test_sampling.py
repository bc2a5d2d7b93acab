"""Sampled decoding: the adjusted laws token by token, and the law of what the decoder emits against the verifier's."""

from collections import Counter
from itertools import product

import naive
import pytest
import torch
from conftest import make_drafter
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, LlamaConfig

from drafter.decode import SpeculativeDecoder
from drafter.sampling import check, probabilities
from drafter.verifier import Verifier

VOCABULARY, SAMPLES, LENGTH = 3, 1500, 4
PROMPT = [1, 0, 2]
ADJUSTMENTS = [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.3, 0.7, 0), (1.0, 1.0, 3), (0.8, 0.6, 4), (2.0, 0.999, 1)]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), ADJUSTMENTS)
def test_laws_match_their_definition(temperature, top_p, top_k):
    logits = 2 * torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    got = probabilities(logits, temperature, top_p, top_k)
    for row, slot in product(range(3), range(5)):
        expected = torch.tensor(naive.law(logits[row, slot], temperature, top_p, top_k), dtype=torch.float64)
        torch.testing.assert_close(got[row, slot].double(), expected, rtol=1e-5, atol=1e-7)


def test_temperature_zero_is_the_argmax():
    logits = torch.tensor([[0.5, 2.0, 1.0], [3.0, -1.0, 2.9]])
    assert probabilities(logits, temperature=0).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_top_p_keeps_the_token_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert probabilities(logits, top_p=0.5).tolist() == [1, 0, 0]
    torch.testing.assert_close(probabilities(logits, top_p=0.51), torch.tensor([0.625, 0.375, 0]))
    torch.testing.assert_close(probabilities(logits, top_p=1e-9), torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((-0.1, 1.0, 0), r"temperature=-0\.1: must be >= 0; 0 is greedy"),
        ((1.0, 0.0, 0), r"top_p=0\.0: must lie in \(0, 1\]"),
        ((1.0, 1.1, 0), r"top_p=1\.1"),
        ((1.0, 1.0, -1), r"top_k=-1: must be >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check(*wrong)


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


@pytest.mark.parametrize(
    ("rule", "temperature", "top_p", "top_k", "allowed"),
    [
        ("match", 0.7, 1.0, 0, None),
        ("match", 1.0, 0.9, 0, [0, 2]),
        ("speculative_sampling", 1.0, 1.0, 0, None),
        ("speculative_sampling", 1.2, 0.9, 0, [0, 2]),
        ("block_verification", 1.0, 1.0, 2, [0, 1]),
        (None, 0.9, 1.0, 0, [0, 1]),
        ("shared_noise", 0.8, 1.0, 0, None),
    ],
)
def test_the_decoder_emits_the_verifiers_law(pair, monkeypatch, rule, temperature, top_p, top_k, allowed):
    verifier, drafter = pair
    monkeypatch.setattr(drafter, "vocabulary", None if allowed is None else torch.tensor(allowed))
    found = SpeculativeDecoder(verifier, drafter, rule=rule).generate(
        [PROMPT] * SAMPLES, LENGTH, temperature, top_p, top_k, seed=5, batch_size=500
    )
    counts = Counter(tuple(one.token_ids) for one in found)
    expected = {answer: SAMPLES * share for answer, share in exact_law(verifier, temperature, top_p, top_k).items()}
    assert sum(counts[answer] for answer, share in expected.items() if share == 0) == 0
    common = [answer for answer, share in expected.items() if share >= 5]
    observed = [counts[answer] for answer in common]
    theory = [expected[answer] for answer in common]
    if SAMPLES - sum(theory) > 1:  # all the rare ones are one cell
        observed, theory = [*observed, SAMPLES - sum(observed)], [*theory, SAMPLES - sum(theory)]
    assert len(theory) >= 12
    assert chisquare(observed, theory, sum_check=False).pvalue > 1e-4
    assert {count for one in found for count in one.accepted} == {0, 1, 2}  # drafts were kept, and rejected


def test_answers_are_a_function_of_the_seed(pair):
    decoder = SpeculativeDecoder(*pair, rule="speculative_sampling")
    runs = [decoder.generate([PROMPT] * 20, 12, temperature=1.0, seed=seed, batch_size=4) for seed in (1, 1, 2)]
    ids = [[one.token_ids for one in run] for run in runs]
    assert ids[0] == ids[1] != ids[2]
    assert len({tuple(one) for one in ids[0]}) > 10  # and rows of a batch do not share their numbers
