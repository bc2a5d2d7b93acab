"""Tiny models, drafters and runs that tests share: nothing is downloaded, no cache of the user is touched."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from functools import cache
from pathlib import Path

import pytest
import torch

from drafter.blocks import every_anchor, slot_ids, slot_labels
from drafter.config import load
from drafter.data.rows import Row, pad
from drafter.evaluation import race
from drafter.evaluation.report import Picture
from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for
from drafter.regenerate import regenerate
from drafter.taps import LocalTaps
from drafter.training.runs.alignment import train
from drafter.verifier import Verifier, tiny

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
USERS_CACHE = os.environ.get("BLOCK_DRAFTER_CACHE")
BY_THE_CLOCK = race.timed
NEW_TOKENS = 28
MASK_TOKEN = 2


def pytest_collection_modifyitems(items):
    """Refuse names that hold an address: two processes would not collect the same tests."""
    named = next((item.nodeid for item in items if " at 0x" in item.nodeid), None)
    if named:
        raise pytest.UsageError(f"{named}: the name holds an address; give its parameters `ids`")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache directory of this session alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCK_DRAFTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def steady_races():
    """Races take a millisecond a token: on a busy machine a whole answer may take no longer than its first token.

    It would then have no speed (NaN), and equal nothing.
    """

    def timed(device, run, *arguments):
        taken, result = BY_THE_CLOCK(device, run, *arguments)
        return arguments[1] / 1000 if len(arguments) == 2 else taken, result  # a way's prompts, and their limit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "timed", timed)
        yield


@pytest.fixture(scope="module")
def users_cache(own_cache):
    """The user's cache, for the real verifier: converting it takes half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        if USERS_CACHE is None:
            patch.delenv("BLOCK_DRAFTER_CACHE")
        else:
            patch.setenv("BLOCK_DRAFTER_CACHE", USERS_CACHE)
        yield


@pytest.fixture
def drawn():
    """For a test that looks at pictures."""


@pytest.fixture(autouse=True)
def blank_pictures(request, monkeypatch):
    """Pictures are a good part of a tiny run's time: those of a test's own runs are blank, those of shared ones not."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Picture, "svgs", lambda picture: [])
        monkeypatch.setattr(Picture, "save", lambda picture, folder: (folder / f"{picture.name}.png").touch())


@cache
def make_verifier(family):
    model, tokenizer = tiny.build(family)
    if family == "gemma3":  # as built it repeats one token: its scaled embedding drowns the layers
        with torch.no_grad():
            model.get_input_embeddings().weight.div_(30)
    return Verifier(model, tokenizer)


@cache
def make_relative(family, share=0.25):
    """Another model of the tokenizer, on the way from the family's verifier to a stranger: it often agrees."""
    (model, tokenizer), (stranger, _) = tiny.build(family), tiny.build(family, seed=1)
    with torch.no_grad():
        for own, other in zip(model.parameters(), stranger.parameters(), strict=True):
            own.lerp_(other, share)
    return Verifier(model, tokenizer)


@cache
def make_prompts():
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, 259, (length,), generator=generator).tolist() for length in (3, 41, 17, 70, 9, 33)]


def plain_generate(verifier, prompt, max_new_tokens):
    """The answer of transformers' own `generate`, greedy."""
    ids = torch.tensor([prompt])
    with verifier.plain_attention() as model:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(verifier.stop_ids),
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


@cache
def make_answers(family):
    return [plain_generate(make_verifier(family), prompt, NEW_TOKENS) for prompt in make_prompts()]


def make_drafter(verifier, seed=0, **settings):
    """A drafter with random weights that are large enough to matter, norms included."""
    shape = {"num_layers": 2, "block_size": 4, "tap_layers": [1, 3], "mask_token_id": MASK_TOKEN} | settings
    drafter = BlockDiffusionDrafter(config_for(verifier, **shape)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in drafter.named_parameters():
            spread = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * spread if "norm" in name else 0.15 * spread)
    return drafter


def with_taps(batch, module):
    """A batch with the taps that the module's own verifier makes of it, as a feed would give it."""
    source = LocalTaps(module.verifier, module.drafter.tap_layers, module.config.needs_states)
    return batch if batch.taps is not None else batch._replace(taps=source(batch.rows, batch.packs))


@cache
def make_memorising(family, block_size=4):
    """A drafter fitted to the verifier's answers to four of the prompts, to a wrong token in every fifth slot."""
    known = list(zip(make_prompts(), make_answers(family), strict=True))[:4]
    return memorise(make_verifier(family), known, block_size)


def memorise(verifier, known, block_size=4, **settings):
    """A drafter fitted to pairs of a prompt and its answer, to a wrong token in every fifth slot."""
    drafter = make_drafter(verifier, block_size=block_size, **settings)
    rows = pad([Row.of(prompt, answer) for prompt, answer in known])
    anchors, used = every_anchor(rows.supervised)
    labels, valid = slot_labels(rows.ids, rows.supervised, anchors, used, block_size)
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(labels.shape, generator=generator) < 0.2
    largest = min(259, len(verifier.head))
    labels[wrong] = torch.randint(3, largest, labels.shape, generator=generator)[wrong]
    taps = verifier.taps(rows.ids, drafter.tap_layers).clone()
    block = verifier.embed(slot_ids(rows.ids, anchors, block_size, drafter.mask_token_id))
    optimizer = torch.optim.AdamW(drafter.parameters(), lr=4e-3)
    for _ in range(60):
        logits = drafter(block, taps, anchors)[:, :, 1:] @ verifier.head.T
        torch.nn.functional.cross_entropy(logits[valid], labels[valid]).backward()
        torch.nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return drafter.requires_grad_(False)


QUICK = ("llama", "gemma3")  # of the others, each differs from llama by less: biases; norms of queries and keys


@pytest.fixture(params=[one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in tiny.FAMILIES])
def family(request):
    """Each family in turn; a test that needs one only says `parametrize("family", ["llama"])`."""
    return request.param


@pytest.fixture
def verifier(family):
    return make_verifier(family)


@pytest.fixture
def answers(family):
    """What transformers' `generate` answers to each of the prompts."""
    return make_answers(family)


@pytest.fixture
def memorising(family):
    return make_memorising(family)


@pytest.fixture
def prompts():
    """Token ids, of ragged lengths, some longer than the sliding window of 32."""
    return make_prompts()


@pytest.fixture(scope="session")
def tiny_answers(tmp_path_factory):
    """A file of the tiny verifier's answers to prompts from 24 documents."""
    path = tmp_path_factory.mktemp("answers") / "answers.parquet"
    prompts = [{"source": f"{i // 2}.py", "kind": "write", "prompt": "x" * (3 * i % 11) + str(i)} for i in range(48)]
    regenerate(make_verifier("llama"), prompts, path, max_new_tokens=24, batch_size=16)
    return path


@pytest.fixture(scope="session")
def tiny_words(tiny_answers):
    """A function: where to write, and overrides → what follows `train.py` on the command line."""

    def words(output, *overrides):
        settings = ["training.max_steps=50", "training.log_every=1", "training.validate_every=5"]
        return [
            str(ROOT / "recipes/tiny.yaml"),
            f"output={output}",
            f"data.answers={tiny_answers}",
            *settings,
            *overrides,
        ]

    return words


@pytest.fixture(scope="session")
def finished_run(tiny_words, tmp_path_factory):
    """A run of `train`, undisturbed: its directory."""
    output = tmp_path_factory.mktemp("finished")
    recipe, *overrides = tiny_words(output)
    train(load(recipe, overrides))
    return output / "tiny"
