"""What a step takes of memory: the arithmetic against what tensors held, and the anchors that a budget buys."""

import logging
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from conftest import make_drafter, make_verifier
from held import Held
from torch.distributed._composable import checkpoint

from drafter.config import TrainingConfig, load
from drafter.training.budget import GIGABYTE, fitting_anchors, step_memory
from drafter.training.prepare import prepare
from losses import score_slots

ROWS, VOCABULARY = 2, 288


def taken(settings, length, anchors, layers, block_size):
    """Bytes that a step of a tiny drafter holds at its peak, and what the arithmetic says, weights left out."""
    drafter = make_drafter(make_verifier("llama"), num_layers=layers, block_size=block_size)
    drafter.attention = "split"
    for layer in drafter.layers if settings.checkpointing else ():
        checkpoint(layer)
    for weight in drafter.parameters():
        weight.grad = torch.zeros_like(weight)
    places = torch.linspace(1, length - 1, anchors).long().expand(ROWS, anchors)
    with Held() as held:
        taps, head = torch.randn(ROWS, length, drafter.fc.in_features), torch.randn(VOCABULARY, 64)
        hidden = drafter(torch.randn(ROWS, anchors, block_size, 64), taps, places)[:, :, 1:].flatten(0, 2)
        labels = torch.zeros(len(hidden), dtype=torch.long)
        score_slots(hidden, head, labels, settings.chunk_size)[0].mean().backward()
    said = step_memory(drafter.config, settings, length, anchors, torch.float32, VOCABULARY)
    return held.peak, sum(said.values()) - said["weights"]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("length", "anchors", "layers", "block_size"), [(64, 24, 2, 8), (400, 24, 2, 8), (64, 60, 2, 8), (64, 24, 5, 8)]
)
def test_a_step_takes_what_the_arithmetic_says(length, anchors, layers, block_size, checkpointing):
    settings = TrainingConfig(rows=ROWS, chunk_size=32, checkpointing=checkpointing)
    held, said = taken(settings, length, anchors, layers, block_size)
    assert 0.9 < said / held < 1.6


def test_a_budget_buys_the_most_anchors_that_fit():
    shape = make_drafter(make_verifier("llama")).config
    settings = TrainingConfig(anchors="auto", memory_gb=0.05, rows=ROWS)

    def takes(anchors, **changed):
        changed = replace(settings, **changed)
        return sum(step_memory(shape, changed, 400, anchors, torch.float32, VOCABULARY).values())

    found = fitting_anchors(shape, settings, 400, torch.float32, VOCABULARY, 400)
    assert 1 < found < 400
    assert takes(found) <= 0.05 * GIGABYTE < takes(found + 1)
    assert fitting_anchors(shape, replace(settings, memory_gb=9.0), 400, torch.float32, VOCABULARY, 400) == 400
    assert takes(found, checkpointing=True) < takes(found) < takes(found, average=0.99)
    assert takes(found, optimizer="muon") < takes(found)
    with pytest.raises(ValueError, match=r"training\.memory_gb=0\.001: a step with one anchor takes .*; raise it"):
        fitting_anchors(shape, replace(settings, memory_gb=0.001), 400, torch.float32, VOCABULARY, 400)
    with pytest.raises(ValueError, match=r"training\.anchors='auto': as many as how much memory"):
        TrainingConfig(anchors="auto")


def test_a_run_takes_as_many_anchors_as_its_budget_holds(tiny_words, tmp_path, caplog):
    recipe, *words = tiny_words(tmp_path, "training.anchors=auto", "training.memory_gb=0.01")
    config = load(recipe, words)
    with caplog.at_level(logging.INFO, "drafter"), closing(prepare(config)) as material:
        longest = max(len(row.ids) for row in material.training)
        found = fitting_anchors(material.drafter.config, config.training, longest, torch.float32, 288, longest)
    assert config.training.anchors == found > 1
    assert f"training.anchors=auto: {found} fit into 0.01 GB" in caplog.text
