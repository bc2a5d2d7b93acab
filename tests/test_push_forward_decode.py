"""Decoding by a push-forward model, alone and as a proposer, against passes over whole rows without cache or batch."""

import copy
import logging

import numpy as np
import pytest
import torch
from conftest import make_prompts, make_verifier
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from drafter.decode import FreeDecoder, SpeculativeDecoder
from drafter.decode.schemes.free_running import FreeRunning
from drafter.machine.tiling import why_not_tiled
from drafter.models import PushForwardModel
from drafter.models.push_forward import for_decoding
from drafter.verification import speculative_sampling
from drafter.verification.base import inverse_cdf
from drafter.verification.streams import kept_noise
from drafter.verifier import Verifier

FEW = 3  # tokens of a vocabulary so small that drafts of an untrained model are often kept
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_few():
    """A verifier of few tokens, and an untrained model for it."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=FEW, max_position_embeddings=128, initializer_range=0.4, pad_token_id=None, **SIZES)
    config.eos_token_id = config.bos_token_id = None
    verifier = Verifier(LlamaForCausalLM(config))
    return verifier, PushForwardModel.from_verifier(verifier, 3).eval()


@pytest.fixture(scope="module")
def few():
    return make_few()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return PushForwardModel.from_verifier(make_verifier("llama"), 4).eval()


def naive(model, prompt, noise, count, penalty=0.0):
    """Tokens of noise [T] behind a prompt, `count` of a pass over the whole row."""
    ids, counts = list(prompt), torch.zeros(len(model.head))
    for own in noise.split(count):
        cache = model.new_cache(1, len(ids) + count)
        logits = model.logits(model.push(torch.tensor([ids]), own[None], torch.ones(1), cache))[0]
        for one in logits:
            ids.append(int((one - penalty * counts).argmax()))
            counts[ids[-1]] += 1
    return ids[len(prompt) :]


@pytest.mark.parametrize(("count", "penalty", "batch_size"), [(4, 0.0, 1), (4, 0.0, 3), (2, 0.0, 4), (3, 0.5, 2)])
@torch.no_grad()
def test_free_running_is_pass_after_pass_over_the_whole_row(model, count, penalty, batch_size):
    prompts = [*make_prompts()[:4], make_prompts()[1], make_prompts()[1]]  # three rows share a prompt
    decoder = FreeDecoder(model, None, count, penalty)
    found = decoder.generate(prompts, max_new_tokens=12, seed=5, batch_size=batch_size)
    noise = kept_noise(5, len(prompts), 12, torch.device("cpu"))
    for index, prompt in enumerate(prompts):
        wanted = naive(model, prompt, noise[index], count, penalty)
        ended = [at + 1 for at, token in enumerate(wanted) if token in model.stop_ids]
        assert found[index].token_ids == wanted[: min([12, *ended])]
        assert found[index].verifier_calls == 0


def test_a_shorter_answer_is_the_beginning_of_a_longer_one(few, model):
    verifier, own = few
    for decoder, prompts in (
        (FreeDecoder(model), make_prompts()[:3]),
        (SpeculativeDecoder(verifier, own), [[1], [2, 0]]),
    ):
        long, short = (decoder.generate(prompts, tokens, temperature=1.0, seed=6) for tokens in (15, 7))
        assert [one.token_ids for one in short] == [one.token_ids[:7] for one in long]


@pytest.mark.skipif(bool(why_not_tiled(torch.device("cpu"), torch.bfloat16)), reason="no bfloat16 products of oneDNN")
@torch.no_grad()
def test_passes_in_tiles(model, caplog):
    """bfloat16: as near to float32 as the backbone's own layers, alone and as a proposer; made once."""
    half = copy.deepcopy(model).bfloat16()
    ids, noise = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.full((2, 4), 0.3)

    def states(one):
        cache = one.new_cache(2, 24)
        one.extend(ids, cache)
        cache.set_lengths([3, 1])
        return one.logits(one.push(ids[:, :2], noise, torch.ones(2), cache)).double()

    with caplog.at_level(logging.INFO, "drafter"):
        tiled = FreeDecoder(half).model
    assert tiled.tiled is not None
    assert tiled.output.tiled is not None
    assert f"tiles: {len(half.body.layers)} layers and the head" in caplog.text
    exact = states(model)
    error, own = ((states(one) - exact).norm() for one in (tiled, half))
    assert 0 < error < 1.2 * own
    assert for_decoding(tiled) is FreeDecoder(tiled).model is tiled
    verifier = Verifier(copy.deepcopy(model.backbone).bfloat16())
    assert SpeculativeDecoder(verifier, half, rule="shared_noise").proposer.model.tiled is not None
    assert half.tiled is None  # what trains and is saved has no tiles
    for compile, expected in (("off", half), ("auto", model)):
        given = half if compile == "off" else model  # float32 stays as it is
        assert FreeDecoder(given, compile=compile).model is expected
    with pytest.raises(ValueError, match="compile='on': tiles are for bfloat16, and float32 stays as it is"):
        FreeDecoder(model, compile="on")


def test_streaming_and_stop_strings(model):
    tokenizer = make_verifier("llama").tokenizer
    decoder = FreeDecoder(model, tokenizer)
    seen = {0: [], 1: []}
    prompts = [make_prompts()[0], make_prompts()[2]]
    answers = decoder.generate(
        prompts, 24, batch_size=2, stop="\x00never", on_tokens=lambda index, new: seen[index].extend(new)
    )
    assert [seen[0], seen[1]] == [one.token_ids for one in answers]
    text = answers[1].text
    cut = decoder.generate(prompts, 24, batch_size=2, stop=text[4:6])[1]
    assert cut.text == text[: text.find(text[4:6])]
    assert cut.stop == "stop"


def inverse_cdf_sampling(verifier, prompt, noise):
    ids = list(prompt)
    for z in noise:
        law = verifier.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        ids.append(int(inverse_cdf(law, z)))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_with_a_verifier_the_output_is_inverse_cdf_sampling_from_it(few, batch_size):
    verifier, model = few
    prompts = [[1], [2, 0], [0, 1, 2, 2, 0, 1], [2] * 9]  # some shorter than a draft
    decoder = SpeculativeDecoder(verifier, model)
    found = decoder.generate(prompts, 60, temperature=1.0, seed=[7, 8, 9, 10], batch_size=batch_size)
    kept = [accepted for one in found for accepted in one.accepted]
    assert {0, 1, 2, 3} <= set(kept)
    for prompt, noise, answer in zip(
        prompts, kept_noise([7, 8, 9, 10], 4, 60, torch.device("cpu")), found, strict=True
    ):
        assert answer.token_ids == inverse_cdf_sampling(verifier, prompt, noise)


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_drafts_are_those_of_a_pass_over_the_whole_row(few, batch_size):
    verifier, model = few
    decoder = SpeculativeDecoder(verifier, model)
    propose, checked = decoder.proposer.propose, []

    def watched(state, anchors, law, noise, **options):
        lengths = list(state.lengths)
        proposal = propose(state, anchors, law, noise, **options)
        for row, length in enumerate(lengths):
            if length:
                wanted = naive(model, state.ids[row, : length + 1].tolist(), noise[row], 3)
                checked.append(proposal.ids[row].tolist() == wanted)
        return proposal

    decoder.proposer.propose = watched
    decoder.generate([[1], [2, 0], [0, 1, 2, 2, 0, 1], [2] * 9], 20, temperature=1.0, batch_size=batch_size)
    assert all(checked)
    assert len(checked) > 20


def test_the_law_of_the_output_is_the_verifiers(few):
    verifier, model = few
    prompt, rows = [2, 0, 1], 4000
    found = SpeculativeDecoder(verifier, model).generate([prompt] * rows, 2, temperature=1.0, batch_size=rows)
    counts = torch.zeros(FEW, FEW)
    for answer in found:
        counts[tuple(answer.token_ids)] += 1
    with torch.no_grad():
        first = verifier.model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
        behind = torch.tensor([[*prompt, token] for token in range(FEW)])
        joint = first[:, None] * verifier.model(input_ids=behind).logits[:, -1].softmax(-1)
    assert chisquare(counts.flatten(), joint.flatten().double() / joint.double().sum() * rows).pvalue > 1e-4


def test_what_does_not_fit_is_refused(few, model):
    verifier, small = few
    with pytest.raises(ValueError, match=r"tokens_per_pass=5: the model was trained to give 1 to 4"):
        FreeDecoder(model, None, 5)
    with pytest.raises(ValueError, match=r"draft_length=5: the drafter proposes at most 3"):
        SpeculativeDecoder(verifier, small, draft_length=5)
    with pytest.raises(ValueError, match=r"temperature=0\.7: the model was trained at 1"):
        FreeDecoder(model).generate([[3]], 4, temperature=0.7)
    with pytest.raises(ValueError, match="temperature=0"):
        SpeculativeDecoder(verifier, small).generate([[1]], 4)
    with pytest.raises(ValueError, match="rule: a push-forward model's drafts have no law; use shared_noise"):
        SpeculativeDecoder(verifier, small, rule=speculative_sampling)
    with pytest.raises(ValueError, match="has a vocabulary of 3 tokens, the verifier of 288"):
        SpeculativeDecoder(make_verifier("llama"), small)
    for penalty in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"frequency_penalty={penalty}: must be >= 0 and finite"):
            FreeDecoder(model, None, 4, penalty)
    with pytest.raises(ValueError, match=r"tokens_per_pass=1\.5: "):
        FreeDecoder(model, None, 1.5)
    for seed in (None, 0.5, 1 << 64, [1]):
        with pytest.raises(ValueError, match=r"seed=.*: must be a whole number of at most 64 bits"):
            FreeDecoder(model).generate([[3]], 4, seed=seed)
    found, expected = (FreeDecoder(model).generate([[3]], 4, seed=seed) for seed in (np.int64(3), 3))
    assert found[0].token_ids == expected[0].token_ids


def test_logits_that_are_no_numbers_end_in_a_line(model, monkeypatch):
    monkeypatch.setattr(PushForwardModel, "logits", lambda self, hidden: hidden[..., :9] * torch.nan)
    with pytest.raises(ValueError, match=r"^prompt 0: the model's logits behind it are no numbers"):
        FreeDecoder(model).generate([[3]], 4)


def test_a_prompt_is_read_in_one_pass_unless_rows_share_it(model, monkeypatch):
    """A chunk at a time if it is long; what several rows share is read once, its last token with each row's noise."""
    monkeypatch.setattr("drafter.decode.schemes.free_running.PREFILL_CHUNK", 4)
    seen, push = [], PushForwardModel.push

    def counted(self, ids, noise, *rest):
        seen.append((ids.shape[1], noise.shape[1]))
        return push(self, ids, noise, *rest)

    monkeypatch.setattr(PushForwardModel, "push", counted)
    decoder, ids = FreeDecoder(model, None, 2), [5, 6, 7, 8, 9]
    answers = {}
    for length, copies, passes in (
        (3, 1, [(3, 2)]),
        (4, 1, [(4, 2)]),
        (5, 1, [(4, 0), (1, 2)]),
        (3, 2, [(2, 0)] + 2 * [(1, 2)]),
    ):
        seen.clear()
        found = decoder.generate([ids[:length]] * copies, 2, batch_size=copies)
        assert seen == passes
        answers.setdefault(length, found[0].token_ids)
        assert found[0].token_ids == answers[length]


def test_noise_outside_its_interval_is_refused_before_decoding(model):
    with pytest.raises(ValueError, match=r"noise: has values outside \[0, 1\)"):
        FreeRunning(model, 2, torch.ones(1, 8), 1.0, model.new_cache(1, 20))
