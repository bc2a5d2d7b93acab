"""Runs of two steps against verifiers of every make: hybrid, mixtures of experts, soft-capped, in eight bits."""

import json
from pathlib import Path

import pytest
import torch
import zoo
from conftest import make_verifier
from safetensors.torch import load_file, save_file

from drafter import answers
from drafter import config as configs
from drafter.check import check
from drafter.commands.endings import run_ending
from drafter.models import BlockDiffusionDrafter
from drafter.training.runs.alignment import train
from drafter.verifier import Verifier
from drafter.verifier.loading import load_model

RECIPE = Path(__file__).parent.parent / "recipes/tiny.yaml"
BLOCK = 16
WORDS = [
    *("data.validation_rows=2", "data.test_rows=2", "decoding.prompts=1", "decoding.max_new_tokens=4"),
    *("training.max_steps=2", "training.validate_every=2", "training.rows=2", "training.anchors=4"),
    *(
        "drafter.num_layers=1",
        "drafter.start=random",
        "drafter.tap_layers=[0,2]",
        "drafter.vocabulary=full",
        "drafter.mask_token_id=280",
    ),
]


def saved(folder, family, **changes):
    """A model of a family with a tokenizer, on disk; the folder."""
    model = zoo.build(family, vocab_size=288, **changes).float()
    model.save_pretrained(folder)
    make_verifier("llama").tokenizer.save_pretrained(folder)
    return folder


def spread(scales, shape):
    """A scale for each weight, from one for each block."""
    return scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]


def to_eight_bits(folder):
    """Store the matrices of the layers in eight bits, with a scale for each block."""
    path = folder / "model.safetensors"
    found = load_file(path)
    for name, weight in list(found.items()):
        if ".layers." in name and weight.ndim == 2 and "norm" not in name and ".gate." not in name:
            rows, columns = (-(-size // BLOCK) for size in weight.shape)
            scales = torch.rand(rows, columns, generator=torch.Generator().manual_seed(len(name))) * 0.01 + 0.001
            found[name] = (weight / spread(scales, weight.shape)).clamp(-448, 448).to(torch.float8_e4m3fn)
            found[f"{name}_scale_inv"] = scales
    save_file(found, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    return folder


def run(folder, verifier, *words):
    """Train on made-up answers; the summary, and the export."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            **{"source": f"document {index}", "kind": "test", "prompt": f"Question {index}?", "stop": "length"},
            "answer_ids": torch.randint(3, 259, (9,), generator=generator).tolist(),
        }
        for index in range(12)
    ]
    path = folder / "answers.parquet"
    answers.write(path, rows, {"verifier": Verifier(*load_model(str(verifier), None, "cpu")).fingerprint(), "rows": 12})
    named = [f"output={folder}", f"data.answers={path}", f"verifier.source={verifier}"]
    return train(configs.load(RECIPE, [*WORDS, *named, *words])), folder / "tiny/export"


def check_trained(summary, export):
    assert summary["steps"] == 2
    assert summary["tokens_per_cycle"] >= 1
    assert all(weight.isfinite().all() for weight in BlockDiffusionDrafter.from_pretrained(export).parameters())


def test_an_untied_mixture_of_experts_in_eight_bits_is_trained_for(tmp_path, monkeypatch):
    """In bfloat16, one copy of the verifier for everything."""
    folder = to_eight_bits(saved(tmp_path / "verifier", "qwen3_moe", tie_word_embeddings=False))
    loaded = []
    whole = Verifier.load.__func__

    def load(kind, source, dtype, *more):
        loaded.append(dtype)
        return whole(kind, source, dtype, *more)

    monkeypatch.setattr(Verifier, "load", classmethod(load))
    summary, export = run(tmp_path, folder, "verifier.dtype=bfloat16", "training.precision=float32")
    check_trained(summary, export)
    assert summary["greedy_mismatches"] == 0
    assert loaded == [torch.bfloat16]
    report = check(export, str(folder), verifier_dtype="bfloat16")
    assert not report.findings, report.findings


def test_a_tied_hybrid_verifier_is_trained_for_and_decoded(tmp_path):
    summary, export = run(tmp_path, saved(tmp_path / "verifier", "qwen3_next", tie_word_embeddings=True))
    check_trained(summary, export)
    assert summary["greedy_mismatches"] == 0
    with pytest.raises(ValueError, match=r"decoding\.tree_nodes=4: the verifier's recurrent layers read no tree"):
        run(tmp_path, tmp_path / "verifier", "decoding.tree_nodes=4", "name=other")


def test_a_verifier_that_is_not_decoded_is_trained_for_and_the_run_ends_with_the_walk(tmp_path, caplog):
    with caplog.at_level("INFO"):
        summary, export = run(tmp_path, saved(tmp_path / "verifier", "jamba"), "losses.forward_kl.weight=1")
    check_trained(summary, export)
    assert "speedup" not in summary
    assert summary["not_decoded"].startswith("JambaForCausalLM: taps behind a cached beginning differ")
    ending = run_ending(export.parent, "V", summary)
    assert "nothing decoded (Jamba" in ending
    assert "generate" not in ending
    assert "the run ends with the walk; nothing was decoded" in caplog.text


def test_a_soft_capped_verifier_is_trained_for_on_labels_and_laws(tmp_path):
    capped = {"final_logit_softcapping": 2.0}
    summary, export = run(tmp_path, saved(tmp_path / "verifier", "gemma3_text", **capped), "losses.forward_kl.weight=1")
    check_trained(summary, export)
    config = json.loads((export / "config.json").read_text())
    assert config["final_logit_softcapping"] == 2.0


def test_eight_bits_are_read_as_what_they_stand_for(tmp_path):
    folder = to_eight_bits(saved(tmp_path / "verifier", "llama"))
    stored = load_file(folder / "model.safetensors")
    verifier = Verifier.load(str(folder))
    assert verifier.dtype is torch.float32
    assert Verifier.load(str(folder), None).dtype is torch.bfloat16
    name = "model.layers.1.mlp.up_proj.weight"
    expected = stored[name].float() * spread(stored[f"{name}_scale_inv"], stored[name].shape)
    assert torch.equal(dict(verifier.model.named_parameters())[name], expected)
    save_file(
        {key: value for key, value in stored.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=rf"missing keys of its weights: {name}"):
        Verifier.load(str(folder))
