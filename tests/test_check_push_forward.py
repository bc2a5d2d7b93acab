"""`export` and `check` of push-forward models: what is written is what was trained, and each fault is named."""

import json
import shlex
import shutil

import pytest
import torch
from conftest import make_relative, make_verifier
from safetensors.torch import load_file, save_file

from drafter.__main__ import main
from drafter.check import check
from drafter.export import push_forward
from drafter.export.push_forward import export_push_forward
from drafter.export.record import read_record
from drafter.models import PushForwardModel, kind_of
from drafter.models.push_forward import model as models
from drafter.verifier import tiny
from drafter.verifier.tokenizer import tokenizer_hash

SOURCE = "tiny-llama"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """An export of an untrained model, as a run would write it."""
    torch.manual_seed(3)
    verifier = make_verifier("llama")
    model = PushForwardModel.from_verifier(verifier, 2, (0.5, 1.0)).eval()
    model.config.backbone["dtype"] = "float32"  # as of a teacher that was saved
    recipe = {"name": "mine", "verifier": {"source": SOURCE}}
    known = {"verifier": verifier.fingerprint(), "tokenizer": tokenizer_hash(verifier.tokenizer)}
    stages = [{"tokens_per_pass": 1, "held_out/nll_1": 2.34567}]
    folder = tmp_path_factory.mktemp("push_forward") / "export"
    push_forward.write(model, verifier.tokenizer, folder, {"recipe": recipe, **known, "stages": stages})
    return folder


@pytest.fixture
def copied(good, tmp_path):
    return shutil.copytree(good, tmp_path / "export")


def test_commands_of_an_export_quote_its_path(good, tmp_path):
    spaced = shutil.copytree(good, tmp_path / "my export")
    for command in check(spaced, SOURCE, dynamic=False).serve.values():
        assert shlex.split(command)[2] == str(spaced)


def test_architectures_that_are_none_end_in_a_line(copied):
    config(architectures=3)(copied)
    with pytest.raises(ValueError, match="architectures=3"):
        kind_of(str(copied))
    (finding,) = check(copied, SOURCE).findings
    assert "architectures=3" in finding.message


def test_a_good_export_passes(good, capsys):
    assert main(["check", str(good), "--verifier", SOURCE]) == 0
    said = capsys.readouterr().out
    assert "fit to be served (push-forward layout" in said
    assert "note:" not in said
    found = check(good, SOURCE)
    assert found.measured["sampled_mismatches"] == 0
    assert 1 <= found.measured["tokens_per_cycle"] <= 3
    assert "| 1 | 2.35 |" in (good / "README.md").read_text()


def config(**changes):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def weights(change):
    def spoil(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return spoil


def without(name):
    return lambda found: {other: value for other, value in found.items() if other != name}


def other_tokenizer(folder):
    tokens = json.loads((folder / "tokenizer.json").read_text())
    names = list(tokens["model"]["vocab"])
    tokens["model"]["vocab"][names[5]], tokens["model"]["vocab"][names[6]] = 6, 5
    (folder / "tokenizer.json").write_text(json.dumps(tokens))


def backbone(**changes):
    def spoil(folder):
        found = json.loads((folder / "config.json").read_text())["backbone"]
        config(backbone={**found, **changes})(folder)

    return spoil


BIAS = "noise.narrow.bias"
STATIC = {
    "no backbone": (config(backbone=None), "backbone"),
    "tokens per pass": (config(tokens_per_pass=0), "tokens_per_pass"),
    "temperatures": (config(temperatures=[1.0, 0.5]), "temperatures"),
    "periods": (config(noise_periods="x"), "noise_periods"),
    "stop ids of another vocabulary": (config(stop_ids=[99999]), "stop_ids"),
    "half a dimension": (backbone(head_dim=1.5), "weights"),
    "a dtype of no name": (backbone(dtype="x"), "weights"),
    "an unknown activation": (backbone(hidden_act="x"), "weights"),
    "no base to rotate by": (backbone(rope_parameters={"rope_type": "default", "rope_theta": None}), "weights"),
    "no stop ids": (config(stop_ids=[]), "stop_ids"),
    "a tensor is missing": (weights(without(BIAS)), "weights"),
    "a tensor of another shape": (weights(lambda found: {**found, BIAS: torch.zeros(3)}), "weights"),
    "NaN": (weights(lambda found: {**found, BIAS: found[BIAS] * torch.nan}), BIAS),
    "another value": (weights(lambda found: {**found, BIAS: found[BIAS] + 1}), BIAS),
    "a pickle": (lambda folder: (folder / "more.bin").touch(), "more.bin"),
    "code": (lambda folder: (folder / "modeling.py").touch(), "modeling.py"),
    "another tokenizer": (other_tokenizer, "tokenizer"),
}


@pytest.mark.parametrize(("spoil", "rule"), STATIC.values(), ids=STATIC)
def test_a_fault_is_named_without_decoding(copied, spoil, rule):
    spoil(copied)
    report = check(copied, SOURCE, dynamic=False)
    assert [one.rule for one in report.findings] == [rule], str(report)


def test_another_teacher_is_named(copied, tmp_path):
    other = tmp_path / "other"
    make_relative("llama").model.save_pretrained(other)
    make_verifier("llama").tokenizer.save_pretrained(other)
    assert "verifier" in [one.rule for one in check(copied, str(other)).findings]
    model, tokenizer = tiny.build("llama")
    model.resize_token_embeddings(300)
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    assert [one.rule for one in check(copied, str(other)).findings] == ["backbone.vocab_size"]


def reversed_noise(self, noise, temperature, whole=models.NoiseEncoder.forward):
    return whole(self, noise.flip(-1) if noise.dim() == 2 else noise, temperature)


def keeps_noise(self, lengths, whole=models.KVCache.set_lengths):
    whole(self, [length + 1 if length else 0 for length in lengths])


def shifted(length, slots, device, whole=models.group_positions):
    return whole(length, slots, device) + 1


@pytest.mark.parametrize(
    ("place", "name", "bug", "rule"),
    [
        (models.NoiseEncoder, "forward", reversed_noise, "prefix"),
        (models.KVCache, "set_lengths", keeps_noise, "cache"),
        (models, "group_positions", shifted, "packed"),
    ],
    ids=["prefix", "cache", "packed"],
)
def test_passes_that_disagree_are_named(good, monkeypatch, place, name, bug, rule):
    monkeypatch.setattr(place, name, bug)
    assert rule in [one.rule for one in check(good, SOURCE).findings]


def test_an_export_in_another_dtype_passes_and_remembers(good, tmp_path, capsys):
    assert main(["export", str(good), str(tmp_path / "half")]) == 0
    assert "check it: drafter check" in capsys.readouterr().out
    half, whole = (PushForwardModel.load(str(folder)) for folder in (tmp_path / "half", good))
    assert (half.dtype, whole.dtype) == (torch.bfloat16, torch.float32)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in PushForwardModel.load(str(tmp_path / "half"), torch.float32).parameters()} == {
        torch.float32
    }
    for one, other in zip(half.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other.bfloat16())
    assert read_record(tmp_path / "half")["verifier"] == read_record(good)["verifier"]
    assert not check(tmp_path / "half", SOURCE, dynamic=False).findings


def test_what_was_changed_is_not_exported_again(copied, tmp_path):
    weights(lambda found: {**found, BIAS: found[BIAS] + 1})(copied)
    with pytest.raises(ValueError, match=rf"{BIAS} is not what was exported"):
        export_push_forward(str(copied), tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layout", "speculators"], "layout='speculators': is of block-diffusion drafters"),
        (["--push", "me/mine"], "push='me/mine': is of block-diffusion drafters"),
        (["--dtype", "int8"], "dtype='int8': choose one of"),
    ],
)
def test_what_does_not_go_with_it_is_refused(good, tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        main(["export", str(good), str(tmp_path / "out"), *words])
