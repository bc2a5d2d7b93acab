"""Layouts: what is written is what is read, in every layout and on every way between them."""

import filecmp
import json
from pathlib import Path

import pytest
import torch
from conftest import NEW_TOKENS, make_answers, make_drafter, make_memorising, make_prompts, make_verifier
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from drafter.check import check
from drafter.decode import SpeculativeDecoder
from drafter.export import convert, export
from drafter.layouts import LAYOUTS, detect
from drafter.models import BlockDiffusionDrafter

NAMES = tuple(LAYOUTS)
KNOWN = {"recipe": {"name": "test", "verifier": {"source": "tiny-qwen3"}}, "step": 3}


def exported(directory, drafter, **settings):
    export(drafter, directory, KNOWN, **settings)
    return directory


def same_files(one, other, but=()):
    names = sorted(path.name for path in Path(one).iterdir())
    assert names == sorted(path.name for path in Path(other).iterdir())
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names if name not in but)


@pytest.fixture
def drafter():
    return make_drafter(make_verifier("qwen3"))


@pytest.fixture(params=[False, True], ids=["whole vocabulary", "draft vocabulary"])
def canonical(request, drafter, tmp_path):
    drafter.vocabulary = torch.tensor([3, 5, 8, 200]) if request.param else None
    return exported(tmp_path / "canonical", drafter)


@pytest.mark.parametrize("second", NAMES)
@pytest.mark.parametrize("first", NAMES)
def test_round_trips_are_equal_to_the_last_bit(canonical, first, second, tmp_path):
    convert(canonical, tmp_path / "1", first)
    convert(tmp_path / "1", tmp_path / "2", second)
    convert(tmp_path / "2", tmp_path / "3", first)
    assert same_files(tmp_path / "1", tmp_path / "3", but=["README.md"])  # it names its directory
    convert(tmp_path / "3", tmp_path / "4")
    assert same_files(canonical, tmp_path / "4", but=["README.md"])
    assert json.loads((tmp_path / "4/config.json").read_text())["architectures"] == ["DFlashDraftModel"]


@pytest.mark.parametrize("layout", NAMES)
def test_a_drafter_reads_every_layout(canonical, layout, tmp_path):
    convert(canonical, tmp_path / "out", layout)
    here, there = (BlockDiffusionDrafter.from_pretrained(path) for path in (canonical, tmp_path / "out"))
    assert there.state_dict().keys() == here.state_dict().keys()
    assert all(torch.equal(here.state_dict()[name], weight) for name, weight in there.state_dict().items())
    assert there.config.to_dict() == here.config.to_dict()
    assert (here.vocabulary is None and there.vocabulary is None) or torch.equal(here.vocabulary, there.vocabulary)
    there.check_verifier(make_verifier("qwen3"))


@pytest.mark.parametrize("layout", NAMES)
def test_export_keeps_the_weights_as_rounded_once(drafter, layout, tmp_path):
    exported(tmp_path / "a", drafter)
    convert(tmp_path / "a", tmp_path / "b", layout)
    read = BlockDiffusionDrafter.from_pretrained(tmp_path / "b")
    assert read.dtype == torch.bfloat16
    for name, weight in drafter.state_dict().items():
        assert torch.equal(read.state_dict()[name], weight.bfloat16())


def test_engines_vocabulary_in_the_speculators_layout(drafter, tmp_path):
    verifier = make_verifier("qwen3")
    drafter.vocabulary = torch.tensor([3, 5, 8, 200])
    exported(tmp_path / "a", drafter)
    convert(tmp_path / "a", tmp_path / "b", "speculators")
    tensors = load_file(tmp_path / "b/model.safetensors")
    assert (tensors["d2t"] + torch.arange(4)).tolist() == [3, 5, 8, 200]
    assert tensors["t2d"].nonzero()[:, 0].tolist() == [3, 5, 8, 200]
    assert torch.equal(tensors["lm_head.weight"], verifier.head[drafter.vocabulary].bfloat16())
    assert json.loads((tmp_path / "b/config.json").read_text())["draft_vocab_size"] == 4
    assert not (tmp_path / "b/draft_vocabulary.json").exists()


@pytest.mark.parametrize(
    "family", ["llama", "gemma3", *(pytest.param(one, marks=pytest.mark.slow) for one in ("qwen2", "qwen3"))]
)
def test_transformers_decodes_the_same_tokens(family, tmp_path):
    """Its own DFlash assistant, loaded strictly from a conversion: plain tokens, our tokens, our acceptance."""
    verifier, trained, prompts = make_verifier(family), make_memorising(family), make_prompts()
    exported(tmp_path / "canonical", trained, dtype=torch.float32)
    convert(tmp_path / "canonical", tmp_path / "native", "transformers", dtype=None)
    assistant, loading = AutoModel.from_pretrained(tmp_path / "native", output_loading_info=True)
    assert not any(loading.values()), loading
    ours = SpeculativeDecoder(verifier, BlockDiffusionDrafter.from_pretrained(tmp_path / "native"))
    for prompt, plain, found in zip(prompts, make_answers(family), ours.generate(prompts, NEW_TOKENS), strict=True):
        proposed = []
        hook = assistant.register_forward_hook(lambda *_, proposed=proposed: proposed.append(1))
        with verifier.plain_attention() as model:
            ids = torch.tensor([prompt])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=assistant,
                speculation_type="dflash",
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=list(verifier.stop_ids),
                pad_token_id=0,
            )
        hook.remove()
        assert out[0, len(prompt) :].tolist() == plain == found.token_ids
        assert abs(len(proposed) - len(found.emitted)) <= 1  # it does not draft for a last single token


def test_large_exports_are_sharded_and_read_alike(drafter, tmp_path):
    exported(tmp_path / "one", drafter)
    convert(tmp_path / "one", tmp_path / "many", shard_bytes=20_000)
    shards = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all((tmp_path / "many" / name).stat().st_size < 40_000 for name in shards)
    whole, parts = (BlockDiffusionDrafter.from_pretrained(tmp_path / name) for name in ("one", "many"))
    assert all(torch.equal(whole.state_dict()[name], weight) for name, weight in parts.state_dict().items())
    convert(tmp_path / "many", tmp_path / "joined")
    assert same_files(tmp_path / "one", tmp_path / "joined", but=["README.md"])
    convert(tmp_path / "many", tmp_path / "native", "transformers", shard_bytes=20_000)
    assert not any(AutoModel.from_pretrained(tmp_path / "native", output_loading_info=True)[1].values())
    (tmp_path / "many" / shards[1]).unlink()
    with pytest.raises(ValueError, match=f"shard {shards[1]} is missing"):
        BlockDiffusionDrafter.from_pretrained(tmp_path / "many")


def test_a_broken_off_export_leaves_the_old_one(drafter, tmp_path, monkeypatch):
    exported(tmp_path / "out", drafter)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("drafter.export._read_back", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "out", make_drafter(make_verifier("qwen3"), seed=5))
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "new", drafter)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_leftovers_of_a_killed_export_do_not_stay(drafter, tmp_path):
    (tmp_path / ".out.12345678.unfinished").mkdir()
    (tmp_path / ".out.12345678.unfinished/model.safetensors").write_bytes(b"half")
    exported(tmp_path / "out", drafter)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_export_never_replaces_other_files(drafter, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        exported(tmp_path, drafter)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="is a file"):
        exported(tmp_path / "notes.txt", drafter)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    exported(tmp_path / "cloned", drafter)
    (tmp_path / "cloned/.git").mkdir()
    for others in ("model", "cloned"):
        with pytest.raises(ValueError, match="holds other files"):
            exported(tmp_path / others, drafter)
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises(ValueError, match="holds the working directory; name another"):
        exported(Path("."), drafter)


def test_a_link_to_an_export_stays_one(drafter, tmp_path):
    exported(tmp_path / "out", drafter)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "out/README.md").unlink()
    exported(tmp_path / "link", drafter)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out/README.md").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_a_changed_tensor_is_not_exported_again(drafter, tmp_path):
    directory = exported(tmp_path / "out", drafter)
    tensors = load_file(directory / "model.safetensors")
    swapped = {"layers.0.self_attn.q_norm.weight": tensors["layers.0.self_attn.k_norm.weight"].clone()}
    save_file(tensors | swapped, directory / "model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_norm\.weight is not what was exported"):
        convert(directory, tmp_path / "again", "transformers")


QUERY = "layers.0.self_attn.q_proj.weight"
SPOILT = {  # what becomes of tensors; what is said where they are read
    "codes": (lambda found: found | {QUERY: found[QUERY].to(torch.int8)}, "q_proj.weight is stored as I8, quantised"),
    "eight bits": (lambda found: found | {QUERY: found[QUERY].to(torch.float8_e4m3fn)}, "stored as F8_E4M3"),
    "twice": (
        lambda found: found | {"layers.0.self_attn.qkv_proj.weight": torch.zeros(128, 64)},
        "q_proj.weight: is stored twice",
    ),
    "a number": (lambda found: found | {"layers.0.self_attn.qkv_proj.weight": torch.tensor(1.0)}, "belongs to no such"),
    "ids before all": (lambda found: found | {"d2t": found["d2t"] - 9}, "its ids must be int64, ascend and end below"),
    "one id": (lambda found: found | {"d2t": found["d2t"][0]}, "its ids must be int64"),
    "ids in floats": (lambda found: found | {"d2t": found["d2t"].float()}, "its ids must be int64"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT)
def test_tensors_of_another_kind_are_neither_read_nor_exported(drafter, spoil, said, tmp_path):
    drafter.vocabulary = torch.tensor([3, 5, 8, 200])
    convert(exported(tmp_path / "first", drafter), tmp_path / "out", "speculators", verifier="tiny-qwen3")
    save_file(spoil(load_file(tmp_path / "out/model.safetensors")), tmp_path / "out/model.safetensors")
    with pytest.raises(ValueError, match=said):
        BlockDiffusionDrafter.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=said):
        convert(tmp_path / "out", tmp_path / "again")
    assert not check(tmp_path / "out", "tiny-qwen3", dynamic=False).ok


def test_the_widest_dtype_is_kept_and_one_without_a_name_is_refused(drafter, tmp_path):
    directory = exported(tmp_path / "out", drafter)
    (directory / "training.json").unlink()
    tensors = load_file(directory / "model.safetensors")
    exact = tensors["fc.weight"].float() + 1e-6
    save_file(tensors | {"fc.weight": exact}, directory / "model.safetensors")
    convert(directory, tmp_path / "kept", dtype=None)
    assert torch.equal(load_file(tmp_path / "kept/model.safetensors")["fc.weight"], exact)
    save_file(tensors | {"fc.weight": exact.double()}, directory / "model.safetensors")
    with pytest.raises(ValueError, match="dtype='float64': choose one of"):
        convert(directory, tmp_path / "kept", dtype=None)


def test_numbers_that_a_dtype_has_not_are_not_exported(drafter, tmp_path):
    with torch.no_grad():
        drafter.fc.weight[0, 0] = 1e6
    directory = exported(tmp_path / "out", drafter)
    with pytest.raises(ValueError, match=r"fc\.weight: holds NaN, infinity or numbers beyond float16; "):
        convert(directory, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


def test_a_tensor_that_its_index_does_not_name_is_told(drafter, tmp_path):
    export(drafter, tmp_path / "one", KNOWN)
    convert(tmp_path / "one", tmp_path / "many", shard_bytes=40_000)
    path = tmp_path / "many/model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["norm.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"does not agree with model-.*\.safetensors on norm\.weight; export again"):
        BlockDiffusionDrafter.from_pretrained(tmp_path / "many")


def test_layouts_refuse_what_they_cannot_express(tmp_path):
    biased = make_drafter(make_verifier("qwen3"))
    config = biased.config.to_dict() | {"attention_bias": True}
    biased = BlockDiffusionDrafter(type(biased.config)(**config))
    exported(tmp_path / "a", biased)
    assert BlockDiffusionDrafter.from_pretrained(tmp_path / "a").config.attention_bias
    with pytest.raises(ValueError, match="attention_bias=True: the transformers layout knows only False"):
        convert(tmp_path / "a", tmp_path / "b", "transformers")
    with pytest.raises(ValueError, match="layout='gguf': choose one of canonical, transformers, speculators"):
        convert(tmp_path / "a", tmp_path / "b", "gguf")
    with pytest.raises(ValueError, match="names its verifier"):
        export_without_verifier(biased, tmp_path / "c")


def export_without_verifier(drafter, directory):
    export(drafter, directory, {})
    convert(directory, directory.with_name("d"), "speculators")


def test_speculators_layout_refuses_another_verifier(drafter, tmp_path):
    exported(tmp_path / "a", drafter)
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": 128}))
    with pytest.raises(ValueError, match="is 128 wide, the drafter 64"):
        convert(tmp_path / "a", tmp_path / "b", "speculators", verifier=str(wide))


def test_detection_looks_at_the_field_that_only_one_layout_has(canonical, tmp_path):
    for name, layout in LAYOUTS.items():
        convert(canonical, tmp_path / "out", name)
        assert detect(json.loads((tmp_path / "out/config.json").read_text())) is layout
