"""`export` and `check` from the command line: from a run's checkpoint to an upload."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_memorising, make_verifier
from test_export_layouts import same_files
from tiny_run import FAMILY, SOURCE, make_run

from drafter.__main__ import main
from drafter.export import convert
from drafter.models import BlockDiffusionDrafter
from drafter.models.storage import facts_of


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def exported(run_directory, tmp_path):
    main(["export", str(run_directory / "checkpoints/best.ckpt"), str(tmp_path / "out")])
    return tmp_path / "out"


def test_a_checkpoint_becomes_what_the_run_exported(run_directory, exported):
    assert same_files(run_directory / "export", exported, but=["README.md"])


def test_an_export_remembers_its_run(run_directory, exported):
    record = json.loads((exported / "training.json").read_text())
    summary = json.loads((run_directory / "summary.json").read_text())
    assert record["recipe"]["name"] == "tiny"
    assert record["step"] in (2, 4)
    assert record["verifier"] == make_verifier(FAMILY).fingerprint()
    assert record["data"]["rows"] == 18
    assert record["tokens_per_cycle"] == pytest.approx(summary["tokens_per_cycle"], abs=0.05)  # before rounding, after
    assert record["probe"]["tokens_per_cycle"] >= 1
    suite = record["results"]["suites"]["held-out"]
    assert suite["low"] <= suite["tokens_per_cycle"] <= suite["high"]


def test_the_export_of_a_run_passes_the_check(run_directory, tmp_path, capsys):
    out = tmp_path / "report.json"
    main(["check", str(run_directory / "export"), "--verifier", SOURCE, "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["ok"]
    (note,) = report["notes"]
    assert note.startswith("trained on rows of at most 512 tokens, the verifier reads 2048: ")
    printed = capsys.readouterr().out
    for word in ("fit to be served", "vllm serve", "sglang.launch_server", 'speculation_type="dflash"'):
        assert word in printed


def test_a_failed_check_ends_with_one(exported, tmp_path, capsys):
    config = json.loads((exported / "config.json").read_text())
    del config["is_causal"]
    (exported / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stop:
        main(["check", str(exported), "--verifier", SOURCE, "--json", str(tmp_path / "report.json")])
    assert stop.value.code == 1
    assert "wrong: is_causal is missing: write false" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["findings"][0]["rule"] == "is_causal"


@pytest.mark.parametrize("layout", ["transformers", "speculators"])
def test_layouts_by_command(run_directory, layout, tmp_path, capsys):
    best = str(run_directory / "checkpoints/best.ckpt")
    main(["export", best, str(tmp_path / "out"), "--layout", layout, "--verifier", SOURCE])
    main(["check", str(tmp_path / "out"), "--verifier", SOURCE])
    assert f"{layout} layout" in capsys.readouterr().out
    main(["export", str(tmp_path / "out"), str(tmp_path / "back")])
    assert same_files(run_directory / "export", tmp_path / "back", but=["README.md"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "keep"])
def test_dtypes_by_command(run_directory, dtype, tmp_path):
    main(["export", str(run_directory / "checkpoints/best.ckpt"), str(tmp_path / "out"), "--dtype", dtype])
    wanted = torch.float32 if dtype == "keep" else getattr(torch, dtype)
    assert BlockDiffusionDrafter.from_pretrained(tmp_path / "out").dtype == wanted
    main(["check", str(tmp_path / "out"), "--verifier", SOURCE, "--static"])


def test_a_checkpoint_between_validations_is_probed_on_request(run_directory, tmp_path, capsys):
    """A checkpoint whose run recorded nothing of it: the number is measured when a verifier is named."""
    state = torch.load(run_directory / "checkpoints/last.ckpt", weights_only=True)
    state["global_step"] = 3
    torch.save(state, tmp_path / "other.ckpt")
    main(["export", str(tmp_path / "other.ckpt"), str(tmp_path / "bare")])
    assert "probe" not in json.loads((tmp_path / "bare/training.json").read_text())
    main(["export", str(tmp_path / "other.ckpt"), str(tmp_path / "out"), "--verifier", SOURCE])
    main(["check", str(tmp_path / "out"), "--verifier", SOURCE])
    assert "probe" not in capsys.readouterr().out


def averaged(state):
    state["current_model_state"] = {"drafter.fc.weight": torch.zeros(1)}
    state["averaging_state"] = {"n_averaged": torch.tensor(3)}


def compiled(state):
    state["state_dict"] = {
        name.replace("drafter.", "drafter._orig_mod."): value for name, value in state["state_dict"].items()
    }


@pytest.mark.parametrize("change", [averaged, compiled])
def test_other_forms_of_a_checkpoint(run_directory, exported, change, tmp_path):
    """Lightning's weight averaging keeps the averages in `state_dict`; a compiled module renames its tensors."""
    state = torch.load(run_directory / "checkpoints/best.ckpt", weights_only=True)
    change(state)
    torch.save(state, tmp_path / "other.ckpt")
    convert(tmp_path / "other.ckpt", tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/block-drafter-trap"),))


def unsafe(path):
    torch.save({"state_dict": {}, "drafter": Trap()}, path)


def foreign(path):
    torch.save({"state_dict": {"weight": torch.ones(2)}}, path)


def tensor_missing(path):
    drafter = make_memorising(FAMILY)
    kept = {f"drafter.{name}": value for name, value in drafter.state_dict().items() if name != "norm.weight"}
    torch.save({"state_dict": kept, "drafter": {"facts": facts_of(drafter.config, torch.float32)}}, path)


BAD_CHECKPOINTS = {
    "code in a pickle": (unsafe, "can't be read as plain tensors"),
    "another program's": (foreign, "does not say what drafter it holds"),
    "cut off": (lambda path: path.write_bytes(b"PK\x03\x04 cut off"), "can't be read as plain tensors"),
    "no checkpoint": (lambda path: path.write_text("hello"), "can't be read as plain tensors"),
    "a tensor short": (tensor_missing, "norm.weight is missing"),
    "missing": (lambda path: None, "no such directory"),
    "sharded": (lambda path: (path.mkdir(), (path / ".metadata").touch()), ".metadata or meta.pt is missing"),
    "an empty directory": (lambda path: path.mkdir(), "has no config.json"),
}


@pytest.mark.parametrize(("make", "named"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_bad_checkpoints_end_in_one_line(make, named, tmp_path):
    make(tmp_path / "a.ckpt")
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "a.ckpt"), str(tmp_path / "out")])
    assert named in str(stop.value)
    assert "\n" not in str(stop.value)
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/block-drafter-trap").exists()


WORDS = {
    "layout": (["--layout", "gguf"], "layout='gguf'"),
    "dtype": (["--dtype", "int8"], "dtype='int8'"),
    "shards": (["--shard-gigabytes", "0"], "shard-gigabytes=0.0"),
    "name": (["--push", "no name"], "push='no name'"),
    "owner": (["--push", "name"], "push='name': name it OWNER/NAME"),
    "suites": (["--evaluation", "none.json"], "no such file"),
}


@pytest.mark.parametrize(("words", "named"), WORDS.values(), ids=WORDS)
def test_bad_words_end_in_one_line(exported, words, named, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(exported), str(tmp_path / "again"), *words])
    assert named in str(stop.value)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere", "--verifier", SOURCE], "export='nowhere': no such directory"),
        ([".", "--verifier", "/nowhere"], "/nowhere"),
        ([".", "--verifier", SOURCE, "--tolerance", "2"], "tolerance=2.0"),
    ],
)
def test_bad_words_of_check_end_in_one_line(words, named):
    with pytest.raises(SystemExit) as stop:
        main(["check", *words])
    assert named in str(stop.value)
    assert "\n" not in str(stop.value)


def test_help_of_both_commands():
    for command in ("export", "check"):
        done = subprocess.run(
            [sys.executable, "-m", "drafter", command, "--help"], capture_output=True, text=True, timeout=60, check=True
        )
        assert "usage: drafter" in done.stdout
