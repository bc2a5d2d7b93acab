"""What a user may get wrong: one line that names field, value and remedy, before any training."""

import importlib
import json
import shutil
from collections import namedtuple

import pyarrow.parquet
import pytest
from conftest import ROOT, make_verifier

import train
from drafter import answers
from drafter.__main__ import main as drafter_main
from drafter.export.record import KINDS, read_record


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Whatever is wrong here is found before the first step."""
    monkeypatch.setattr("drafter.training.module.DrafterModule.training_step", None)


def message_of(run, words):
    """What the program ends with."""
    with pytest.raises(SystemExit) as caught:
        run(words)
    message = caught.value.code
    assert isinstance(message, str)
    assert message.startswith("error: ")
    assert "\n" not in message
    assert "Traceback" not in message
    return message.removeprefix("error: ")


@pytest.fixture
def complaint(tiny_words, tmp_path):
    """A function: overrides → the line that `train.py` ends with."""

    def run(*overrides):
        message = message_of(train.main, tiny_words(tmp_path / "runs", *overrides))
        assert not list((tmp_path / "runs").glob("*/checkpoints"))
        return message

    return run


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean training.learning_rate?"),
        ("training.rows=many", "training.rows='many': Value 'many' of type 'str' could not be converted to Integer"),
        (
            "losses.chain_reward.gradient_cap=2; training.accumulate=2",
            "training.accumulate=2: losses.chain_reward.gradient_cap is measured batch by batch; set it to 1",
        ),
        ("drafter.block_size=1", "drafter.block_size=1: needs the anchor and at least one draft slot (>= 2)"),
        ("drafter.tap_layers=[1,9]", "drafter.tap_layers=[1, 9]: name distinct layers in ascending order from 0 to 4"),
        ("drafter.tap_layers=[1,5]", "drafter.tap_layers=[1, 5]: name distinct layers in ascending order from 0 to 4"),
        ("drafter.num_taps=4", "drafter.num_taps=4: the verifier has room for 3; lower it or name tap_layers"),
        ("drafter.mask_token_id=288", "drafter.mask_token_id=288: must be an id of the verifier, 0 to 287"),
        ("drafter.mask_token_id=0", "drafter.mask_token_id=0: ends answers; choose an id that text never uses"),
        ("drafter.mask_token_id=1", "drafter.mask_token_id=1: is the verifier's bos token; choose an id"),
        ("drafter.num_layers=7", "drafter.num_layers=7: the verifier has only 6; start: random takes any"),
        ("verifier.source=./none", "verifier.source='./none': no such file or directory; check the path"),
        ("verifier.source=none.gguf", "verifier.source='none.gguf': no such file; check the path or reinstall"),
        ("verifier.source=a/model", "verifier.source='a/model': can't be loaded as a causal LM"),
        ("verifier.source=tiny-qwen3", "written by another verifier"),
        ("verifier.device=gpu", "verifier.device='gpu': no such device; choose auto, cpu or cuda"),
        ("verifier.attention=flash_attn", "attention='flash_attn': needs a CUDA device; use attention=sdpa"),
        ("data.answers=none.parquet", "data.answers='none.parquet': no such file; make it with"),
        ("data.sequence_length=9", "data.sequence_length=9: no row has room for its answer; raise it"),
        ("data.validation_share=0.001", "data.validation_share=0.001: leaves 48 training and 0 held-out rows"),
        ("training.rows=500", "training.rows: a step takes 500 rows, the data have"),
        ("training.workers=-1", "training.workers=-1: must be >= 0"),
        (
            "training.precision=auto; training.devices=2",
            "training.precision='auto': of several ranks, each could find another one faster",
        ),
        ("decoding.max_new_tokens=2048", "decoding.max_new_tokens=2048: a test prompt has"),
        ("drafter.start=./none", "drafter.start='./none': no such directory; check the path"),
    ],
)
def test_wrong_settings_end_in_one_line(complaint, override, expected):
    assert expected in complaint(*override.split("; "))


def test_too_few_rows_are_found_before_any_taps_are_made(complaint, monkeypatch):
    monkeypatch.setattr("drafter.training.runs.alignment.taps_of", None)
    assert "training.rows: a step takes 60 rows, the data have" in complaint("training.rows=30", "training.devices=2")


@pytest.mark.parametrize(("anchors", "warned"), [(1, True), (64, False)])
def test_anchors_that_pass_over_most_tokens_are_warned_of(complaint, monkeypatch, caplog, anchors, warned):
    def stop(*_, **__):
        raise ValueError("far enough")

    monkeypatch.setattr("drafter.training.runs.alignment.taps_of", stop)
    assert complaint(f"training.anchors={anchors}") == "far enough"
    assert (f"training.anchors={anchors}: in an epoch, slots predict only" in caplog.text) == warned


def test_a_missing_recipe_ends_in_one_line():
    assert message_of(train.main, ["nowhere.yaml"]).startswith("recipe='nowhere.yaml': no such file")


def test_answers_cut_off_in_the_middle_end_in_one_line(complaint, tiny_answers, tmp_path):
    content = tiny_answers.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    assert "cut.parquet': cut off or damaged (" in complaint(f"data.answers={tmp_path / 'cut.parquet'}")


def test_answers_without_rows_end_in_one_line(complaint, tmp_path):
    answers.write(tmp_path / "empty.parquet", [], {})
    assert "empty.parquet': holds no rows; " in complaint(f"data.answers={tmp_path / 'empty.parquet'}")


def test_answers_with_foreign_ids_end_in_one_line(complaint, tiny_answers, tmp_path):
    rows, manifest = answers.read(tiny_answers)
    rows[7]["answer_ids"] = [3, 288]
    answers.write(tmp_path / "foreign.parquet", rows, manifest)
    found = complaint(f"data.answers={tmp_path / 'foreign.parquet'}")
    assert "row 7 holds an id outside the verifier's vocabulary of 288" in found


def test_another_kind_of_file_ends_in_one_line(complaint, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "text.parquet")
    assert "lacks the columns" in complaint(f"data.answers={tmp_path / 'text.parquet'}")


@pytest.mark.parametrize("left", [[], ["config.json"]], ids=["empty", "without weights"])
def test_a_directory_without_its_model_ends_in_one_line(complaint, tmp_path, left):
    model = tmp_path / "model"
    make_verifier("llama").model.save_pretrained(model)
    for path in model.iterdir():
        if path.name not in left:
            path.unlink()
    assert f"verifier.source='{model}': " in complaint(f"verifier.source={model}")


def test_a_full_disk_ends_in_one_line(complaint, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    assert "data.taps='cached': needs" in complaint("seed=1", "data.validation_rows=3")


def test_a_path_that_cannot_be_written_ends_in_one_line(tiny_words, tmp_path):
    (tmp_path / "file").write_text("")
    message = message_of(train.main, tiny_words(tmp_path / "file"))
    assert message == f"{tmp_path / 'file' / 'tiny'}: Not a directory; check path and permissions"


def test_a_recipe_put_right_runs_under_the_same_name(complaint, tiny_words, tmp_path, monkeypatch):
    """A failed start claims nothing."""
    complaint("drafter.tap_layers=[9]")
    run = importlib.import_module("drafter.training.runs.alignment")
    reached = []
    monkeypatch.setattr(
        run, "fit", lambda *_, **__: reached.append("fit") or (_ for _ in ()).throw(ValueError("far enough"))
    )
    monkeypatch.setattr("drafter.taps.TapCache.close", lambda self: reached.append("closed"))
    assert message_of(train.main, tiny_words(tmp_path / "runs")) == "far enough"
    assert reached[-2:] == ["fit", "closed"]


def test_regenerate_ends_in_one_line(tiny_answers, tmp_path, monkeypatch):
    recipe = str(ROOT / "recipes/tiny.yaml")
    there = f"data.answers={tiny_answers}"
    assert "exists already; delete it, or name another with --out" in message_of(
        drafter_main, ["regenerate", recipe, there]
    )
    elsewhere = f"data.answers={tmp_path / 'a.parquet'}"
    assert "data.sources: ask for no prompt" in message_of(
        drafter_main, ["regenerate", recipe, elsewhere, "data.sources=[]"]
    )
    assert "no such file" in message_of(drafter_main, ["regenerate", "nowhere.yaml"])


def test_help_is_help(capsys):
    for words, code in (["--help"], 0), ([], 2):
        with pytest.raises(SystemExit) as ended:
            train.main(words)
        assert ended.value.code == code
        said = capsys.readouterr()
        assert "usage: drafter train" in said.out + said.err


@pytest.mark.parametrize(
    ("column", "missing"), [("source", "source"), ("prompt", "prompt or messages"), ("answer_ids", "answer_ids")]
)
def test_answers_with_an_empty_column_end_in_one_line(complaint, tiny_answers, tmp_path, column, missing):
    rows, manifest = answers.read(tiny_answers)
    answers.write(tmp_path / "empty.parquet", [{**row, column: None} for row in rows], manifest)
    assert f"has rows without {missing}; " in complaint(f"data.answers={tmp_path / 'empty.parquet'}")


@pytest.mark.parametrize("recipe", [3, "x", []])
def test_answers_with_another_manifest_end_in_one_line(complaint, tiny_answers, tmp_path, recipe):
    rows, manifest = answers.read(tiny_answers)
    answers.write(tmp_path / "other.parquet", rows, {**manifest, "recipe": recipe})
    found = complaint(f"data.answers={tmp_path / 'other.parquet'}")
    assert "its manifest is not what `drafter regenerate` writes; " in found


@pytest.mark.parametrize("place", sorted(KINDS))
def test_each_place_of_a_record_has_its_kind(tmp_path, place):
    found = {} if KINDS[place] is not dict else "x"
    for name in reversed(place.split(".")):
        found = [found] if name == "*" and place.startswith(("probe", "stages")) else {name: found}
    (tmp_path / "training.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"training\.json: .*=.*: not what an export writes; export again, or delete"):
        read_record(tmp_path)


@pytest.mark.parametrize("fact", ["hidden_size", "layer_types", "target_layer_ids"])
def test_each_fact_of_a_record_is_as_in_a_config(tmp_path, fact):
    (tmp_path / "training.json").write_text(json.dumps({"facts": {fact: [None]}}))
    with pytest.raises(ValueError, match=rf"training\.json: facts\.{fact}=\[None\]: must be "):
        read_record(tmp_path)


@pytest.mark.parametrize("name", sorted(name for name in KINDS if "." not in name))
def test_a_record_of_another_kind_ends_in_one_line(finished_run, tmp_path, capsys, name):
    shutil.copytree(finished_run / "export", tmp_path / "export")
    path = tmp_path / "export/training.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: "x"}))
    complaint = f"{path}: {name}='x': not what an export writes; export again, or delete it"
    message = message_of(drafter_main, ["export", str(tmp_path / "export"), str(tmp_path / "out")])
    assert message == complaint
    with pytest.raises(SystemExit):
        drafter_main(["check", str(tmp_path / "export"), "--verifier", "tiny-llama", "--static"])
    assert complaint in capsys.readouterr().out


@pytest.mark.parametrize("value", ["x", [], {}, 1])
def test_a_causality_that_is_none_ends_in_one_line(finished_run, tmp_path, value):
    shutil.copytree(finished_run / "export", tmp_path / "export")
    path = tmp_path / "export/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_causal": value}))
    message = message_of(drafter_main, ["generate", str(tmp_path / "export"), "--verifier", "tiny-llama", "hello"])
    assert f"is_causal={json.dumps(value)}: must be " in message


@pytest.mark.parametrize("line", ["[]", "3", '"x"'])
@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_a_suite_of_no_objects_ends_in_one_line(finished_run, tmp_path, command, line):
    (tmp_path / "suite.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n')
    words = [
        command,
        str(finished_run / "export"),
        "--verifier",
        "tiny-llama",
        "--suites",
        str(tmp_path / "suite.jsonl"),
    ]
    assert message_of(drafter_main, words).endswith("line 2 is no JSON object; mend or remove it")


def test_a_prompt_that_is_no_text_ends_in_one_line(finished_run):
    words = ["generate", str(finished_run / "export"), "--verifier", "tiny-llama", "caf\udce9"]
    assert message_of(drafter_main, words) == "prompt: is no UTF-8 text; convert it first"
