"""The export of a run: the contract of serving engines, spelt out; equal logits after reading back; atomicity."""

import json

import pytest
import torch
from conftest import make_drafter, make_prompts, make_verifier
from safetensors.torch import load_file

from drafter.decode import SpeculativeDecoder
from drafter.export import export
from drafter.models import BlockDiffusionDrafter

KNOWN = {"recipe": {"name": "test"}, "step": 3}


@pytest.fixture
def drafter():
    drafter = make_drafter(make_verifier("qwen3"), num_layers=2, tap_layers=[1, 2, 4])
    drafter.vocabulary = torch.tensor([3, 5, 8, 200])
    return drafter


def test_the_tensors_are_exactly_those_of_the_contract(drafter, tmp_path):
    export(drafter, tmp_path / "export", KNOWN)
    expected = {"fc.weight": [64, 3 * 64], "hidden_norm.weight": [64], "norm.weight": [64]}
    for layer in ("layers.0", "layers.1"):
        expected |= {
            f"{layer}.input_layernorm.weight": [64],
            f"{layer}.post_attention_layernorm.weight": [64],
            f"{layer}.self_attn.q_proj.weight": [64, 64],
            f"{layer}.self_attn.k_proj.weight": [32, 64],
            f"{layer}.self_attn.v_proj.weight": [32, 64],
            f"{layer}.self_attn.o_proj.weight": [64, 64],
            f"{layer}.self_attn.q_norm.weight": [16],
            f"{layer}.self_attn.k_norm.weight": [16],
            f"{layer}.mlp.gate_proj.weight": [96, 64],
            f"{layer}.mlp.up_proj.weight": [96, 64],
            f"{layer}.mlp.down_proj.weight": [64, 96],
        }
    tensors = load_file(tmp_path / "export/model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert [path.name for path in (tmp_path / "export").glob("*.safetensors")] == ["model.safetensors"]


def test_the_config_says_what_engines_read(drafter, tmp_path):
    export(drafter, tmp_path / "export", KNOWN)
    config = json.loads((tmp_path / "export/config.json").read_text())
    theirs = make_verifier("qwen3").config
    expected = {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": theirs.rms_norm_eps,
        "attention_bias": False,
        "vocab_size": 288,
        "max_position_embeddings": 2048,
        "rope_theta": theirs.rope_parameters["rope_theta"],
        "layer_types": ["full_attention", "full_attention"],
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "block_size": 4,
        "num_target_layers": 6,
        "is_causal": False,
    }
    assert {name: config[name] for name in expected} == expected
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"]
    assert config["dflash_config"]["mask_token_id"] == 2
    assert config["dflash_config"]["target_layer_ids"] == [1, 2, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_read_back_drafts_the_same(drafter, tmp_path, dtype):
    read = export(drafter, tmp_path / "export", KNOWN, dtype=dtype)
    rounded = make_drafter(make_verifier("qwen3"), num_layers=2, tap_layers=[1, 2, 4])
    rounded.load_state_dict({name: weight.to(dtype) for name, weight in rounded.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(1, 2, 4, 64, generator=generator)
    taps = torch.randn(1, 9, 192, generator=generator)
    anchors = torch.tensor([[2, 7]])
    loaded = BlockDiffusionDrafter.from_pretrained(tmp_path / "export", dtype=torch.float32)
    with torch.no_grad():
        expected = rounded(block, taps, anchors) @ make_verifier("qwen3").head.T
        for one in (read, loaded):
            assert torch.equal(one(block, taps, anchors) @ make_verifier("qwen3").head.T, expected)
            assert one.vocabulary.tolist() == [3, 5, 8, 200]


def test_positions_are_exact_in_half_precision(drafter, tmp_path):
    export(drafter, tmp_path / "export", KNOWN)
    half = BlockDiffusionDrafter.from_pretrained(tmp_path / "export")
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.rotary_emb.inv_freq, drafter.rotary_emb.inv_freq)


def test_a_failed_export_leaves_the_old_one(drafter, tmp_path, monkeypatch):
    export(drafter, tmp_path / "export", KNOWN)
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("drafter.export.write_card", fail)
    with pytest.raises(KeyboardInterrupt):
        export(make_drafter(make_verifier("qwen3"), seed=1), tmp_path / "export", KNOWN)
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_other_files_are_never_replaced(drafter, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; name a new directory or an old export"):
        export(drafter, tmp_path, KNOWN)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_runs_export_decodes_as_its_summary_says(finished_run):
    verifier = make_verifier("llama")
    drafter = BlockDiffusionDrafter.from_pretrained(finished_run / "export", dtype=torch.float32)
    summary = json.loads((finished_run / "summary.json").read_text())
    assert sum(weight.numel() for weight in drafter.parameters()) == summary["parameters"]
    assert len(drafter.vocabulary) == summary["draft_vocabulary"]
    plain, drafted = (
        SpeculativeDecoder(verifier, one).generate(make_prompts(), 12, batch_size=3) for one in (None, drafter)
    )
    assert [one.token_ids for one in plain] == [one.token_ids for one in drafted]
