"""Published drafters: read as they are, refused by name where they can't be, and trained on from."""

import json
from pathlib import Path

import pytest
import torch
from conftest import MASK_TOKEN, make_drafter, make_verifier
from safetensors.torch import load_file, save_file

from drafter import config as configs
from drafter.export import convert
from drafter.models import BlockDiffusionDrafter
from drafter.models.start import adopt
from drafter.training.prepare import start


@pytest.fixture
def drafter():
    return make_drafter(make_verifier("qwen3"))


def published(**changes):
    """The fields and forms of a drafter that z-lab published, in small; rope_theta alone, no is_causal, a tied head."""
    return {
        "architectures": ["DFlashDraftModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "block_size": 4,
        "bos_token_id": 1,
        "dflash_config": {"mask_token_id": MASK_TOKEN, "target_layer_ids": [1, 3]},
        "dtype": "bfloat16",
        "eos_token_id": 0,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "layer_types": ["full_attention", "full_attention"],
        "max_position_embeddings": 2048,
        "max_window_layers": 5,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_target_layers": 6,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "transformers_version": "4.57.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 288,
    } | changes


def publish(directory, drafter, config):
    directory.mkdir()
    save_file(
        {name: weight.bfloat16() for name, weight in drafter.state_dict().items()}, directory / "model.safetensors"
    )
    (directory / "config.json").write_text(json.dumps(config))
    return directory


NESTED = {"block_size": 4, "num_target_layers": 6, "mask_token_id": MASK_TOKEN, "target_layer_ids": [1, 3]}
VARIANTS = {
    "as it is": published(),
    "block size nested": {
        key: value for key, value in published(dflash_config=NESTED).items() if key not in ("block_size", "layer_types")
    },
    "rope_parameters alone": {
        key: value
        for key, value in published(rope_parameters={"rope_type": "default", "rope_theta": 1e6}).items()
        if key != "rope_theta"
    },
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_published_drafters_are_read_as_they_are(drafter, config, tmp_path):
    read = BlockDiffusionDrafter.from_pretrained(publish(tmp_path / "z", drafter, config), dtype=torch.float32)
    assert (read.block_size, read.config.num_target_layers, list(read.tap_layers)) == (4, 6, [1, 3])
    assert read.config.rope_parameters["rope_theta"] == 1e6
    assert set(read.config.layer_types) == {"full_attention"}
    assert read.config.is_causal is False
    convert(tmp_path / "z", tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["is_causal"] is False
    assert config["tie_word_embeddings"] is True
    assert "auto_map" not in config
    again = BlockDiffusionDrafter.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert all(torch.equal(read.state_dict()[name], weight) for name, weight in again.state_dict().items())


SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
WRONG_CONFIGS = {
    "sliding layers without a window": (published(**SLIDING), "sliding_window"),
    "a window shorter than a block": (published(**SLIDING, sliding_window=3), "sliding_window=3: must be at least"),
    "recurrent layers": (published(layer_types=["linear_attention"] * 2), "layer_types"),
    "causality in words": (published(is_causal="no"), "is_causal"),
    "anchor sampled from": (published(sample_from_anchor=True), "sample_from_anchor=true"),
    "a RoPE base of none": (published(rope_theta=None), "rope_theta"),
    "a tap that is no layer": (
        published(dflash_config={"mask_token_id": 2, "target_layer_ids": 3}),
        "target_layer_ids",
    ),
    "a depth beyond all bounds": (published(num_hidden_layers=10**12), "num_hidden_layers"),
    "no taps": (published(dflash_config={"mask_token_id": 2}), "target_layer_ids"),
    "no mask id": (published(dflash_config={"target_layer_ids": [1, 3]}), "mask_token_id"),
    "a string for a number": (published(hidden_size="64"), "hidden_size"),
    "another depth": (published(num_hidden_layers=3, layer_types=["full_attention"] * 3), "layers.2"),
    "another model": ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
}


@pytest.mark.parametrize(("config", "named"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_what_cannot_be_read_is_named(drafter, config, named, tmp_path):
    directory = publish(tmp_path / "z", drafter, config)
    with pytest.raises(ValueError, match=named) as error:
        BlockDiffusionDrafter.from_pretrained(directory)
    assert "\n" not in str(error.value)


def test_reading_is_strict_about_tensors(drafter, tmp_path):
    directory = publish(tmp_path / "z", drafter, published())
    tensors = load_file(directory / "model.safetensors")
    for changed, named in (
        ({name: value for name, value in tensors.items() if name != "norm.weight"}, "norm.weight is missing"),
        (tensors | {"mask_hidden": torch.zeros(64)}, "mask_hidden"),
        (tensors | {"fc.weight": tensors["fc.weight"].T.contiguous()}, "fc.weight has shape"),
    ):
        save_file(changed, directory / "model.safetensors")
        with pytest.raises(ValueError, match=named):
            BlockDiffusionDrafter.from_pretrained(directory)


def test_the_verifiers_own_tensors_are_left_out_of_a_drafter(drafter, tmp_path):
    directory = publish(tmp_path / "z", drafter, published())
    tensors = load_file(directory / "model.safetensors")
    borrowed = {"embed_tokens.weight": torch.zeros(288, 64), "lm_head.weight": torch.zeros(288, 64)}
    save_file(tensors | borrowed, directory / "model.safetensors")
    assert BlockDiffusionDrafter.from_pretrained(directory).vocabulary is None
    convert(directory, tmp_path / "out")
    assert set(load_file(tmp_path / "out/model.safetensors")) == set(tensors)


def test_training_starts_from_a_published_drafter(drafter, tmp_path):
    verifier = make_verifier("qwen3")
    directory = publish(tmp_path / "z", drafter, published())
    recipe = Path(__file__).parent.parent / "recipes/tiny.yaml"
    words = [
        f"drafter.start={directory}",
        "drafter.tap_layers=[1,3]",
        "drafter.vocabulary=full",
        "drafter.block_size=6",
    ]
    started = start(configs.load(recipe, words), verifier, [])
    assert started.block_size == 6
    assert started.dtype == torch.float32
    assert all(weight.requires_grad for weight in started.parameters())
    for name, weight in drafter.state_dict().items():
        assert torch.equal(started.state_dict()[name], weight.bfloat16().float())


def test_a_drafter_to_start_from_must_have_the_recipes_layers(drafter):
    other = make_drafter(make_verifier("qwen3"), tap_layers=[1, 2])
    with pytest.raises(ValueError, match=r"drafter\.tap_layers=\[1, 2\]: .* set drafter\.tap_layers=\[1, 3\]"):
        adopt(drafter, other.config)
