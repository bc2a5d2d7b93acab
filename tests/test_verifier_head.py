"""The verifier's head alone: logits of every law, in any dtype, folded into one product, read without the body."""

import json
import re

import pytest
import torch
import zoo
from conftest import make_drafter, make_prompts, make_verifier
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from drafter.decode import SpeculativeDecoder
from drafter.verifier import Verifier, VerifierHead, tiny
from drafter.verifier.output import OutputHead
from drafter.verifier.shards import Checkpoint, unscaled

LAWS = [{}, {"bias": True}, {"scale": 0.3}, {"softcap": 2.0}, {"bias": True, "scale": 3.0, "softcap": 1.5}]


def head_of(law, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 5, generator=generator)
    bias = torch.randn(11, generator=generator) if law.get("bias") else None
    return OutputHead(weight, bias, law.get("scale", 1.0), law.get("softcap")).to(dtype)


def naive(head, hidden):
    z = hidden.double() @ head.weight.double().T
    z = head.scale * (z if head.bias is None else z + head.bias.double())
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


@pytest.fixture
def hidden():
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_logits_are_the_formula(law, hidden):
    head = head_of(law)
    torch.testing.assert_close(head(hidden).double(), naive(head, hidden), rtol=1e-5, atol=1e-5)
    ids = torch.tensor([1, 4, 9])
    torch.testing.assert_close(head.rows(ids)(hidden), head(hidden)[..., ids])
    assert head.rows(None) is head


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_states_of_any_dtype_are_taken(law, hidden):
    head = head_of(law)
    torch.testing.assert_close(head(hidden.bfloat16()), head(hidden.bfloat16().float()))
    assert head_of(law, torch.bfloat16)(hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_folded_head_is_one_product(law, hidden):
    head = head_of(law, torch.float64)
    product = head.unfolded(hidden.double()) @ head.folded().T
    capped = product if head.softcap is None else head.softcap * torch.tanh(product / head.softcap)
    torch.testing.assert_close(capped, naive(head, hidden))


@pytest.mark.parametrize("family", [*tiny.FAMILIES])
def test_the_head_is_read_without_the_body(family, tmp_path):
    model, tokenizer = tiny.build(family)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone, whole = VerifierHead.load(str(tmp_path)), make_verifier(family)
    ids = torch.arange(20)
    names = [name for name, _ in alone.model.named_parameters()]
    assert not any(".layers." in name for name in names)
    assert torch.equal(alone.embed(ids), torch.nn.Module.__call__(model.get_input_embeddings(), ids))
    assert torch.equal(alone.head, model.get_output_embeddings().weight)
    assert alone.num_layers == alone.config.num_hidden_layers == whole.num_layers == 6
    assert alone.stop_ids == whole.stop_ids
    assert alone.chat_ids("hi") == whole.chat_ids("hi")
    alone.check_taps([0, 4])


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")], ids="-".join)
@pytest.mark.parametrize("how", [{}, {"tree_nodes": 6}], ids=["chain", "tree"])
@pytest.mark.parametrize("vocabulary", [None, list(range(0, 288, 2))], ids=["whole", "half"])
def test_verifier_and_drafter_may_be_of_different_dtypes(dtypes, how, vocabulary):
    """A verifier in float32 beside an export in bfloat16 is the README's own example."""
    theirs, ours = (getattr(torch, name) for name in dtypes)
    verifier = Verifier(tiny.build("llama")[0].to(theirs))
    drafter = make_drafter(make_verifier("llama")).to(ours)
    drafter.vocabulary = None if vocabulary is None else torch.tensor(vocabulary)
    prompts = make_prompts()[:2]
    plain = SpeculativeDecoder(verifier).generate(prompts, 8)
    found = SpeculativeDecoder(verifier, drafter, **how).generate(prompts, 8)
    if theirs is torch.float32:
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    assert all(one.token_ids for one in found)


def saved(family, folder, **changes):
    """A model of a family in many shards, its config changed; returns it and what its index names."""
    model, tokenizer = tiny.build(family)
    if not changes.get("tie_word_embeddings", True):
        weight = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(3))
        model.lm_head.weight = torch.nn.Parameter(weight)
    for name, value in changes.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save_pretrained(folder)
    return model, json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def without_layers(folder, placed):
    """Remove every shard that holds layers alone."""
    needed = {file for name, file in placed.items() if ".layers." not in name}
    for path in folder.glob("model-*.safetensors"):
        if path.name not in needed:
            path.unlink()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None], ids=str)
def test_shards_of_layers_need_not_be_there(tmp_path, tied, dtype):
    model, placed = saved("llama", tmp_path, tie_word_embeddings=tied)
    without_layers(tmp_path, placed)
    found = VerifierHead.load(str(tmp_path), dtype)
    assert found.dtype is (dtype or torch.float32)
    assert torch.equal(found.head, model.lm_head.weight.to(found.dtype))
    assert (found.head is found.model.get_input_embeddings().weight) == tied
    assert torch.equal(found.final_norm, model.model.norm.weight.to(found.dtype))
    with pytest.raises(ValueError, match=r"of its files are not there, the first model-.*; copy them, or, to train on"):
        Verifier.load(str(tmp_path))
    (tmp_path / placed["model.norm.weight"]).unlink()
    with pytest.raises(ValueError, match=r"which holds model\.norm\.weight, is not there; copy it"):
        VerifierHead.load(str(tmp_path))


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', '{"weight_map": {"a": null}}', "{"])
def test_an_index_that_is_none_is_refused_in_a_line(index, tmp_path):
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    for load in (Verifier.load, VerifierHead.load):
        with pytest.raises(ValueError, match=r"^verifier\.source='.*': can't be loaded as a causal LM \(.*\); name"):
            load(str(tmp_path))


def test_the_ends_tell_verifiers_apart_in_every_dtype(tmp_path):
    verifier, placed = make_verifier("llama"), saved("llama", tmp_path)[1]
    without_layers(tmp_path, placed)
    ends = VerifierHead.load(str(tmp_path))
    assert ends.fingerprint() == VerifierHead.load(str(tmp_path), torch.bfloat16).fingerprint()
    assert ends.fingerprint() == VerifierHead.fingerprint(verifier) != verifier.fingerprint()
    assert verifier.is_of(ends.fingerprint())
    assert verifier.is_of(verifier.fingerprint())
    assert not ends.is_of(verifier.fingerprint())
    others = [VerifierHead(*tiny.build("llama", seed=1)), VerifierHead(*tiny.build("qwen2"))]
    assert len({ends.fingerprint(), *(one.fingerprint() for one in others)}) == 3
    for change in ("norm", "embed_tokens"):
        model, _ = tiny.build("llama")
        with torch.no_grad():
            getattr(model.model, change).weight[1] *= 1.1
        assert not VerifierHead(model).is_of(ends.fingerprint()), change


EIGHT = torch.float8_e4m3fn


def in_blocks(weight, block):
    """A weight in eight bits with a scale for each block; what a reader of it has to find."""
    rows, columns = (-(-size // each) for size, each in zip(weight.shape, block, strict=True))
    scales = torch.zeros(rows, columns)
    stored = torch.zeros(weight.shape, dtype=EIGHT)
    true = torch.zeros_like(weight)
    for row in range(rows):
        for column in range(columns):
            at = slice(row * block[0], (row + 1) * block[0]), slice(column * block[1], (column + 1) * block[1])
            scales[row, column] = weight[at].abs().max() / 448
            stored[at] = (weight[at] / scales[row, column]).to(EIGHT)
            true[at] = stored[at].float() * scales[row, column]
    return stored, scales, true


@pytest.mark.parametrize("block", [(128, 48), (1, 64), (288, 64)], ids=["blocks", "rows", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, None], ids=str)
def test_a_head_of_eight_bits_is_read_with_its_scales(tmp_path, block, dtype):
    model, placed = saved("llama", tmp_path, tie_word_embeddings=False)
    weight = model.lm_head.weight.detach()
    stored, scales, true = in_blocks(weight, block)
    name = "weight_scale" if block[0] == 1 else "weight_scale_inv"
    path = tmp_path / placed["lm_head.weight"]
    save_file({**load_file(path), "lm_head.weight": stored, f"lm_head.{name}": scales}, path, {"format": "pt"})
    config, index = tmp_path / "config.json", tmp_path / "model.safetensors.index.json"
    quantised = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}
    config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
    weight_map = {**placed, f"lm_head.{name}": path.name}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    without_layers(tmp_path, placed)
    found = VerifierHead.load(str(tmp_path), dtype)
    assert found.dtype is (dtype or torch.float32)
    torch.testing.assert_close(found.head, (true if dtype else true.bfloat16()).to(found.dtype), rtol=0, atol=0)
    assert 0 < float((found.head - weight).norm() / weight.norm()) < 0.05
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    with pytest.raises(ValueError, match=r"lm_head\.weight is torch\.float8_e4m3fn without lm_head\.weight_scale_inv"):
        VerifierHead.load(str(tmp_path))


def test_scales_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"scales of shape \[2, 3\] fit no weight of shape \[256, 256\]"):
        unscaled(torch.zeros(256, 256, dtype=EIGHT), torch.ones(2, 3))


def test_what_is_packed_otherwise_is_refused(tmp_path):
    save_file({"model.norm.weight": torch.zeros(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"stored as torch\.int8, packed in a way"):
        Checkpoint(str(tmp_path)).read("model.norm.weight")


ENDS = ["qwen3_moe", "qwen3_next", "gemma2", "granite", "falcon_h1", "gpt2"]


@pytest.mark.parametrize("family", ENDS)
def test_the_ends_of_other_families_are_theirs(tmp_path, family):
    """Mixtures of experts, recurrent layers, scaled and soft-capped heads, other names of the same ends."""
    model = zoo.build(family).float()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny.build("llama")[1].save_pretrained(tmp_path)
    if (tmp_path / "model.safetensors.index.json").is_file():
        placed = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
        layers = {file for name, file in placed.items() if not re.search(r"\.(layers|h)\.\d+\.", name)}
        for path in tmp_path.glob("model-*.safetensors"):
            if path.name not in layers:
                path.unlink()
    ends, whole = VerifierHead.load(str(tmp_path)), VerifierHead(model)
    ids, hidden = (
        torch.arange(3, 40),
        torch.randn(5, whole.config.hidden_size, generator=torch.Generator().manual_seed(2)),
    )
    torch.testing.assert_close(ends.embed(ids), whole.embed(ids), rtol=0, atol=0)
    torch.testing.assert_close(ends.logits(hidden), whole.logits(hidden), rtol=0, atol=0)
    torch.testing.assert_close(ends.norm(hidden), whole.norm(hidden), rtol=0, atol=0)
    assert ends.fingerprint() == whole.fingerprint()
    assert ends.num_layers == whole.num_layers


def test_the_ends_of_a_large_vocabulary_are_told_in_half_precision():
    """Of long tensors every so many numbers are taken."""
    config = LlamaConfig(
        vocab_size=9000, hidden_size=16, intermediate_size=8, num_hidden_layers=0, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    assert VerifierHead(model).fingerprint() == VerifierHead(model.to(torch.bfloat16)).fingerprint()
