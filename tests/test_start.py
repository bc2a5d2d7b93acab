"""Drafters that start in the verifier's own layers."""

import pytest
import torch
from conftest import MASK_TOKEN, make_verifier

from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for
from drafter.models.start import start_from_verifier
from drafter.verifier import Verifier, tiny


@pytest.fixture
def verifier(family):
    """One whose norms have gains, as trained ones do."""
    model, _ = tiny.build(family)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=generator))
    return Verifier(model)


def started(verifier, num_layers=2, tap_layers=(1, 3)):
    shape = config_for(verifier, num_layers=num_layers, block_size=4, tap_layers=tap_layers, mask_token_id=MASK_TOKEN)
    drafter = BlockDiffusionDrafter(shape)
    start_from_verifier(drafter, verifier)
    return drafter


def random_taps(drafter):
    return torch.randn(1, 9, drafter.fc.in_features, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_layers_are_the_verifiers_last(verifier):
    drafter = started(verifier)
    for layer, source in zip(drafter.layers, verifier.layers[-2:], strict=True):
        theirs = dict(source.named_parameters())
        for name, weight in layer.named_parameters():
            if name in theirs:
                assert torch.equal(weight, theirs[name]), name
    assert torch.equal(drafter.norm.weight, verifier.final_norm)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_last_tap_passes_and_the_others_wait(verifier):
    drafter = started(verifier)
    taps = random_taps(drafter)
    with torch.no_grad():
        context = drafter.context(taps)
        torch.testing.assert_close(context, verifier.layers[-2].input_layernorm(taps[..., -64:]))
        changed = taps.clone()
        changed[..., :-64] += 1.0
        torch.testing.assert_close(drafter.context(changed), context)


@pytest.mark.parametrize("family", ["qwen3"])
def test_injected_keys_are_those_of_the_copied_layer(verifier):
    """Qwen3 has the drafter's norms: behind the right tap, the cache holds what the verifier's own layer would."""
    drafter = started(verifier, num_layers=2, tap_layers=[1, 3])  # the first copied layer is 4: its input is tap 3
    ids = torch.randint(3, 259, (1, 9), generator=torch.Generator().manual_seed(0))
    cache, theirs = drafter.new_cache(1, 9), verifier.new_cache(1, 9)
    with torch.no_grad():
        _, taps = verifier.step(ids, theirs, drafter.tap_layers)
        drafter.extend(taps, cache)
    torch.testing.assert_close(cache.keys[0], theirs.keys[4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cache.values[0], theirs.values[4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_norms_keep_the_typical_size_of_projections(verifier):
    """Where the verifier has no query and key norms: on white input, sizes before and after the norm agree."""
    drafter = started(verifier)
    white = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    for layer, source in zip(drafter.layers, verifier.layers[-2:], strict=True):
        for name in ("q", "k"):
            projected = white * source.input_layernorm.weight @ getattr(source.self_attn, f"{name}_proj").weight.T
            gain = getattr(layer.self_attn, f"{name}_norm").weight
            assert (gain == gain[0]).all()
            assert gain[0].item() == pytest.approx(projected.square().mean().sqrt().item(), rel=0.02)


@pytest.mark.parametrize("family", ["llama"])
def test_the_verifier_is_left_alone(verifier):
    before = {name: weight.clone() for name, weight in verifier.model.named_parameters()}
    drafter = started(verifier)
    with torch.no_grad():
        for weight in drafter.parameters():
            weight.add_(1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in verifier.model.named_parameters())


def test_more_layers_than_the_verifier_has_are_refused():
    with pytest.raises(ValueError, match=r"drafter\.num_layers=7: the verifier has only 6; start: random takes any"):
        started(make_verifier("llama"), num_layers=7)


def test_layers_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"use drafter\.start=random"):
        started(make_verifier("gemma3"))
