"""A verifier whose output head has a bias: what a training step reads off it, slot by slot in float64."""

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, make_drafter, make_prompts, make_verifier, plain_generate, with_taps
from torch import nn

from drafter.blocks import slot_ids
from drafter.config import load
from drafter.data.rows import Row
from drafter.training.batches import Steps
from drafter.training.module import DrafterModule
from drafter.verifier import Verifier

LOSSES = ("forward_kl", "reverse_kl", "jsd", "lk")


@pytest.fixture(scope="module")
def verifier():
    model = copy.deepcopy(make_verifier("llama").model)
    generator = torch.Generator().manual_seed(3)
    head = nn.Linear(64, 288)
    head.weight = nn.Parameter(model.get_output_embeddings().weight.detach().clone())
    head.bias = nn.Parameter(3 * torch.randn(288, generator=generator))
    model.lm_head = head
    return Verifier(model)


def laws(verifier, drafter, batch):
    """Log-probabilities of every slot in float64, the drafter's and the verifier's, [B, A, G, V] each."""
    rows, anchors, size = batch.rows, batch.anchors, drafter.block_size
    head, model = copy.deepcopy(verifier.model.lm_head).double(), copy.deepcopy(verifier.model).double()
    with torch.no_grad():
        block = verifier.embed(slot_ids(rows.ids, anchors, size, drafter.mask_token_id))
        ours = head(drafter(block, batch.taps[..., : drafter.fc.in_features], anchors)[:, :, 1:].double())
        whole = model(input_ids=rows.ids).logits  # [B, S, V]
    before = (anchors[..., None] + torch.arange(size - 1)).clamp(max=rows.ids.shape[1] - 1)  # [B, A, G]
    theirs = torch.stack([logits[at] for logits, at in zip(whole, before, strict=True)])
    return ours.log_softmax(-1), theirs.log_softmax(-1)


@pytest.mark.parametrize("labels", ["row", "verifier"])
def test_it_is_in_every_score_of_a_step(verifier, tmp_path, labels):
    prompts = make_prompts()[:3]
    rows = [Row.of(prompt, plain_generate(verifier, prompt, 12)) for prompt in prompts]
    words = ["data.answers=a", "drafter.vocabulary=full", "training.rows=3", "training.anchors=4"]
    words += [f"training.labels={labels}", *(f"losses.{name}.weight=1" for name in LOSSES)]
    config = load(ROOT / "recipes/tiny.yaml", words)
    drafter = make_drafter(verifier)
    module = DrafterModule(config, drafter, verifier, [])
    module.trainer = SimpleNamespace(precision="32-true")
    batch = with_taps(Steps(rows, None, config)[0], module)
    found = module.scores(batch)
    ours, theirs = laws(verifier, drafter, batch)
    p, q = theirs.exp(), ours.exp()
    mixed = ((p + q) / 2).log()
    expected = {
        "forward_kl": (p * (theirs - ours)).sum(-1),
        "reverse_kl": (q * (ours - theirs)).sum(-1),
        "jsd": ((p * (theirs - mixed)).sum(-1) + (q * (ours - mixed)).sum(-1)) / 2,
        "log_acceptance": torch.minimum(p, q).sum(-1).log(),
    }
    valid = found.valid
    assert valid.sum() > 20
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name)[valid].double(), value[valid], rtol=1e-3, atol=1e-4)
    label = theirs.argmax(-1)  # the answers are the verifier's own
    torch.testing.assert_close(
        found.nll[valid].double(), -ours.gather(-1, label[..., None])[..., 0][valid], rtol=1e-4, atol=1e-4
    )
    assert torch.equal(found.hit[valid], (ours.argmax(-1) == label)[valid])
