"""Drafters that start in the verifier's own layers."""

import pytest
import torch
import zoo
from conftest import MASK_TOKEN, make_verifier

from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for
from drafter.models.start import kept_of, start_from_verifier
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


def started(verifier, num_layers=2, tap_layers=(1, 3), mask_token_id=MASK_TOKEN):
    sizes = {"num_layers": num_layers, "block_size": 4, "tap_layers": tap_layers, "mask_token_id": mask_token_id}
    shape = config_for(verifier, **sizes, **kept_of(verifier))
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


def test_biases_are_kept():
    verifier = Verifier(zoo.build("qwen2").float())
    drafter = started(verifier, tap_layers=(0, 2), mask_token_id=40)
    for layer, source in zip(drafter.layers, verifier.layers[-2:], strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            assert torch.equal(getattr(layer.self_attn, name).bias, getattr(source.self_attn, name).bias)
        assert not layer.self_attn.o_proj.bias.any()  # the verifier has none


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "seed_oss", "arcee"])
def test_what_is_copied_works_as_in_the_verifier(family):
    """Or is refused: zoo models have nothing at its default."""
    verifier = Verifier(zoo.build(family).float())
    if family == "arcee":  # no gate
        with pytest.raises(ValueError, match=r"no mlp\.gate_proj"):
            started(verifier, tap_layers=(0, 2), mask_token_id=40)
        return
    drafter, ids = started(verifier, tap_layers=(0, 2), mask_token_id=40), torch.arange(3, 8)[None]
    with torch.no_grad():
        taps = verifier.taps(ids, [1, 2]).float()  # the first copied layer is 2: its input is tap 1
        keys, values = drafter.layers[0].self_attn.keys_values(
            drafter.hidden_norm(taps[..., :32]), drafter.rotary_emb(taps, torch.arange(5)[None])
        )
        cache = verifier.new_cache(1, 5)
        verifier.step(ids, cache)
    torch.testing.assert_close(values, cache.values[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cosine_similarity(keys, cache.keys[2], dim=-1), torch.ones(1, 5, 2))


SCALED = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
}


@pytest.mark.parametrize("scaling", SCALED.values(), ids=SCALED)
def test_the_verifiers_rotation_is_copied_scaling_and_all(scaling):
    """Qwen3 has the drafter's norms: far behind where scaling begins, keys are those of the verifier's own layer."""
    verifier = Verifier(zoo.build("qwen3", rope_parameters=scaling | {"rope_theta": 1e4}).float())
    drafter, ids = started(verifier, tap_layers=(0, 1), mask_token_id=40), torch.arange(200)[None] % 90
    cache, theirs = drafter.new_cache(1, 200), verifier.new_cache(1, 200)
    with torch.no_grad():
        _, taps = verifier.step(ids, theirs, drafter.tap_layers)
        drafter.extend(taps, cache)
    torch.testing.assert_close(cache.keys[0], theirs.keys[2], rtol=1e-3, atol=1e-3)


def test_a_rotation_that_a_drafter_has_not_is_refused():
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    longrope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    verifier = Verifier(zoo.build("llama", rope_parameters=longrope).float())
    with pytest.raises(ValueError, match=r"its layers rotate otherwise \(rope_type='longrope'"):
        started(verifier, tap_layers=(0, 2), mask_token_id=40)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("ernie4_5", "something else"),  # rotates neighbours
        ("glm", "has"),  # fused projections
        ("granite", "something else"),  # scaled residuals
        ("olmo2", "has"),  # post-norms
        ("cohere", "has"),
        ("phi3", "has"),
        ("mixtral", "has"),
        ("starcoder2", "has"),
        ("gemma3_text", "has"),
        ("helium", "something else"),
    ],
)
def test_what_would_be_lost_is_refused(family, why):
    verifier = Verifier(zoo.build(family).float())
    with pytest.raises(ValueError, match=r"^drafter\.start='verifier': .*; use drafter\.start=random$") as error:
        started(verifier, tap_layers=(0, 2), mask_token_id=40)
    assert ("something else" in str(error.value)) == (why == "something else"), error.value
