"""The real verifier: its tokenizer as repaired, the answers that ship, decoding with a drafter of its own layers.

Slow, and in the user's cache, where the converted model is kept.
"""

import copy

import pytest
import torch
from conftest import ROOT, plain_generate

from drafter import answers
from drafter.attention import flash_cpu
from drafter.config import load
from drafter.decode import SpeculativeDecoder
from drafter.evaluation.agreement import TIE, compare_greedy, margin
from drafter.evaluation.paying import walk_trees
from drafter.evaluation.slots import observe
from drafter.evaluation.suites import evenly, load_suite
from drafter.evaluation.walk import walk_along
from drafter.machine.tiling import why_not_tiled
from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for
from drafter.models.start import start_from_verifier
from drafter.verifier import Verifier
from drafter.verifier.conversion import resolve

pytestmark = pytest.mark.slow
RECIPE = ROOT / "recipes/quickstart.yaml"


@pytest.fixture(scope="module")
def config():
    return load(RECIPE)


@pytest.fixture(scope="module")
def smollm2(users_cache):
    return Verifier.load("smollm2")


@pytest.fixture(scope="module")
def shipped(config):
    return answers.read(ROOT / config.data.answers)


def make_drafter_of(verifier, settings, num_layers):
    """Of the verifier's own layers; its drafts are sometimes right."""
    shape = config_for(
        verifier,
        num_layers=num_layers,
        block_size=settings.block_size,
        tap_layers=settings.tap_layers,
        mask_token_id=settings.mask_token_id,
    )
    drafter = BlockDiffusionDrafter(shape).eval()
    start_from_verifier(drafter, verifier)
    return drafter.to(verifier.dtype)


def same_but_for_ties(verifier, prompt, one, other):
    """Whether two answers are equal up to the first place where the two best tokens are one value to float32."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return margin(verifier, prompt + one[:at]) < TIE
    return len(one) == len(other)


def test_the_model_is_what_its_note_says(smollm2):
    assert smollm2.num_layers == 30
    assert smollm2.head.shape == (49_152, 576)
    assert smollm2.stop_ids == (2,)
    assert smollm2.config.max_position_embeddings == 8192
    assert resolve("smollm2") == resolve("smollm2")


def test_every_digit_is_a_token(smollm2):
    tokenizer = smollm2.tokenizer
    for text in ("1234", "x = 10 + 255", "in 2024, 3.14159"):
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        assert "".join(pieces) == text
        assert all(len(piece.strip()) == 1 for piece in pieces if any(letter.isdigit() for letter in piece))


def test_prompts_go_through_the_chat_template(smollm2, config):
    ids = smollm2.chat_ids("What is 2 + 2?")
    text = smollm2.tokenizer.decode(ids)
    assert text.endswith("<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n")
    assert config.drafter.mask_token_id not in ids


def test_text_survives_the_tokenizer(smollm2):
    text = (ROOT / "drafter/blocks.py").read_text()
    assert smollm2.tokenizer.decode(smollm2.tokenizer.encode(text)) == text


def test_greedy_answers_are_those_of_generate(smollm2):
    prompt = smollm2.chat_ids("Name three colours.")
    ours = SpeculativeDecoder(smollm2).generate([prompt], 24)[0].token_ids
    assert same_but_for_ties(smollm2, prompt, plain_generate(smollm2, prompt, 24), ours)


def test_shipped_answers_are_the_verifiers(smollm2, shipped, config):
    rows, manifest = shipped
    assert manifest["verifier"] == smollm2.fingerprint()
    assert manifest["dtype"] == "float32"
    assert len(rows) == manifest["rows"]
    assert not any(config.drafter.mask_token_id in row["answer_ids"] for row in rows)
    some = sorted(rows, key=lambda row: len(row["prompt"]))[:200:50]
    prompts = [smollm2.chat_ids(row["prompt"]) for row in some]
    found = SpeculativeDecoder(smollm2).generate(prompts, manifest["max_new_tokens"], batch_size=len(prompts))
    for row, prompt, one in zip(some, prompts, found, strict=True):
        assert same_but_for_ties(smollm2, prompt, row["answer_ids"], one.token_ids)


def test_a_drafter_of_the_verifiers_own_layers_decodes_the_same(smollm2, config):
    drafter = make_drafter_of(smollm2, config.drafter, config.drafter.num_layers)
    prompts = [smollm2.chat_ids(text) for text in ("Count to ten.", "Write hello world in Python.")]
    agreement = compare_greedy(smollm2, drafter, prompts, 32)
    assert agreement.mismatches == 0
    walked = walk_along(agreement.speculative, prompts, smollm2, drafter)  # where two tokens tie, along its own
    assert [one.emitted for one in agreement.speculative] == walked.emitted


def test_drafts_in_a_row_change_no_token_in_bfloat16(smollm2, config):
    """By tiles and kernels on a CPU not even where two tokens tie, alone and in a batch."""
    if flash_cpu.missing() or why_not_tiled(torch.device("cpu"), torch.bfloat16):
        pytest.skip("no tiles, or no kernels of our own: passes over one token and over many round differently")
    verifier = Verifier(copy.deepcopy(smollm2.model).bfloat16(), smollm2.tokenizer, compile="on")
    drafter = make_drafter_of(verifier, config.drafter, 2)
    prompts = [verifier.chat_ids(row["prompt"]) for row in evenly(load_suite("mt_bench"), 12)]
    plain = SpeculativeDecoder(verifier).generate(prompts, 48)
    for batch_size in (1, 5):
        drafted = SpeculativeDecoder(verifier, drafter).generate(prompts, 48, batch_size=batch_size)
        assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]
    assert sum(one.verifier_calls for one in drafted) < sum(one.verifier_calls for one in plain)  # some drafts are kept


def test_walk_and_decoder_agree_on_fifty_prompts(smollm2, shipped, config):
    """Cycle by cycle, in float32, in a row and in trees; drafts of the verifier's own layers are sometimes right."""
    drafter = make_drafter_of(smollm2, config.drafter, 2)
    rows = sorted(shipped[0], key=lambda row: len(row["prompt"]))[:200:4]
    prompts = [smollm2.chat_ids(row["prompt"]) for row in rows]
    assert len(prompts) == 50
    made = SpeculativeDecoder(smollm2, drafter).generate(prompts, 16, batch_size=10)
    walked = walk_along(made, prompts, smollm2, drafter)
    assert [one.emitted for one in made] == walked.emitted
    assert [one.accepted for one in made] == walked.accepted
    trees = SpeculativeDecoder(smollm2, drafter, tree_nodes=8).generate(prompts[:8], 16, batch_size=4)
    seen = [
        (observe(smollm2, drafter, prompt, one.token_ids), one.token_ids)
        for prompt, one in zip(prompts, trees, strict=False)
    ]
    assert walk_trees(seen, 8).emitted == [one.emitted for one in trees]
