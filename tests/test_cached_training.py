"""Training from cached taps is training from online ones, bit for bit, where the verifier sees the same batches."""

from types import SimpleNamespace

import pytest
import torch
from conftest import make_answers, make_drafter, make_prompts

from drafter.config import load
from drafter.data.rows import Row
from drafter.training.batches.feed import Feed
from drafter.training.fitting import fit
from drafter.training.module import MONITOR, DrafterModule
from drafter.training.runs.alignment import training_taps
from drafter.verifier import Verifier, tiny


@pytest.fixture
def losses(tiny_words, tmp_path, monkeypatch):
    """A function: overrides → the loss of each of six steps, with a bfloat16 verifier, on twelve rows."""
    monkeypatch.setattr("drafter.taps.cache.TOKENS_PER_PASS", 1)
    pairs = zip(make_prompts() * 2, make_answers("llama") * 2, strict=True)
    rows = [Row.of([3 + number, *prompt], answer) for number, (prompt, answer) in enumerate(pairs)]
    verifier = Verifier(tiny.build("llama")[0].bfloat16())
    step = DrafterModule.training_step

    def run(*overrides):
        seen = []

        def training_step(self, batch, index):
            loss = step(self, batch, index)
            seen.append(loss.item())
            return loss

        monkeypatch.setattr(DrafterModule, "training_step", training_step)
        name = f"name={overrides[0].removeprefix('data.taps=')}"
        words = tiny_words(tmp_path, name, "training.max_steps=6", "training.validate_every=100", *overrides)
        config = load(words[0], words[1:])
        drafter = make_drafter(verifier)
        taps = training_taps(config, SimpleNamespace(training=rows, drafter=drafter), verifier)
        assert taps.ahead == (config.data.taps != "online")
        module = DrafterModule(config, drafter, verifier, [])
        batches = Feed(config, rows, None, taps)
        fit(module, batches, config.directory, config.training, MONITOR, dtype=torch.bfloat16)
        taps.close()
        return seen

    return run


def test_rows_one_by_one(losses):
    found = losses("data.taps=cached", "training.rows=1")
    assert found == losses("data.taps=online", "training.rows=1")
    assert len(set(found)) == 6


@pytest.mark.parametrize("packing", ["false", "true"], ids=["padded", "packed"])
def test_passes_of_the_first_epoch(losses, packing):
    settings = ["training.rows=2", f"data.packing={packing}", "data.sequence_length=100"]
    found = losses("data.taps=cached_on_first_epoch", *settings)
    online = losses("data.taps=online", *settings)
    assert found[:3] == online[:3]
    assert found == pytest.approx(online, rel=0.05)  # behind it, the verifier saw other rows together
    assert len(set(found)) == 6
