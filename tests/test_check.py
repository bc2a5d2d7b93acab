"""`check`: a good export passes in every layout; each deliberate defect is named in a line that says what to do."""

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import make_drafter, make_verifier
from defect_table import FAMILY, SOURCE, make_good
from defects import DEFECTS

from drafter.check import check
from drafter.check.behaviour import leaks
from drafter.check.verifier import VerifierFacts
from drafter.evaluation.agreement import compare_greedy
from drafter.export import convert, export
from drafter.layouts import FACTS, LAYOUTS, RULES
from drafter.models.storage import facts_of
from drafter.verifier import Verifier, tiny
from drafter.verifier.tokenizer import context_length

LOAD = VerifierFacts.load
REMEDY = re.compile(
    r"write|must|export|remove|name |correct|choose|copy|train with|check|download|train again|start from"
)


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A trained drafter's exports, one per layout; the speculators one with a draft vocabulary."""
    return make_good(tmp_path_factory.mktemp("exports"))


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """The facts of the verifier, which hundreds of checks here would read anew."""
    monkeypatch.setattr(VerifierFacts, "load", lambda source: known() if source == SOURCE else LOAD(source))


@cache
def known():
    return LOAD(SOURCE)


@pytest.fixture
def copied(good, tmp_path):
    def copy(layout):
        return Path(shutil.copytree(good / layout, tmp_path / "export"))

    return copy


@pytest.mark.parametrize("name", [*LAYOUTS, "restricted"])
def test_a_good_export_passes(good, name):
    report = check(good / name, SOURCE)
    assert report.ok, str(report)
    assert not report.notes
    assert report.measured["greedy_mismatches"] == 0
    assert report.measured["tokens_per_cycle"] == pytest.approx(
        report.measured["tokens_per_cycle_in_training"], rel=0.05
    )
    assert report.measured["tokens_per_cycle"] > 1.15
    assert set(report.serve) == {"vLLM", "SGLang", "transformers"}
    json.dumps(report.as_dict())


def test_rows_of_the_head_need_the_verifiers_own(good, tmp_path):
    model, tokenizer = tiny.build(FAMILY)
    model.config.save_pretrained(tmp_path)
    model.generation_config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    report = check(good / "speculators", str(tmp_path), dynamic=False)
    assert report.ok, str(report)
    assert any("rows of the head were not compared" in note for note in report.notes)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    report = check(good / "speculators", str(tmp_path), dynamic=False)
    assert report.ok, str(report)
    assert not any("rows of the head" in note for note in report.notes)


@pytest.mark.parametrize(("name", "defect"), DEFECTS.items(), ids=DEFECTS)
def test_a_defect_is_named(copied, name, defect, tmp_path):
    directory = copied(defect.layout)
    defect.spoil(directory)
    source = SOURCE if defect.verifier is None else defect.verifier(tmp_path / "verifier")
    report = check(directory, source, dynamic=defect.dynamic)
    named = [one for one in report.findings if one.rule == defect.rule]
    assert named, f"{name}: {defect.rule} not among {[one.rule for one in report.findings]}"
    assert "\n" not in named[0].message
    assert REMEDY.search(named[0].message), named[0].message
    assert not report.serve


def test_the_table_in_the_documentation_names_every_defect():
    """`python tests/defect_table.py` prints that table."""
    text = (Path(__file__).parent.parent / "docs/results/serving/README.md").read_text()
    assert not [name for name, defect in DEFECTS.items() if f"| {name} | `{defect.rule}` |" not in text]
    assert len(DEFECTS) >= 30


def test_a_verifier_whose_embedding_an_engine_lends_unscaled_is_told(good, tmp_path):
    drafter = make_drafter(make_verifier("gemma3"))
    export(drafter, tmp_path / "gemma", {"facts": facts_of(drafter.config, torch.bfloat16)})
    told, silent = (
        [note for note in check(folder, source, dynamic=False).notes if "scales its embeddings outside" in note]
        for folder, source in ((tmp_path / "gemma", "tiny-gemma3"), (good / "canonical", SOURCE))
    )
    assert (len(told), silent) == (1, [])


@pytest.mark.parametrize(("family", "told"), [("glm4", 1), ("ernie4_5", 1), ("cohere", 1), (FAMILY, 0)])
def test_versions_that_rotate_a_drafter_as_its_verifier_are_named(good, tmp_path, monkeypatch, family, told):
    theirs = replace(known(), family=family)
    monkeypatch.setattr(VerifierFacts, "load", lambda source: theirs)
    notes = check(good / "canonical", SOURCE, dynamic=False).notes
    assert sum("vLLM built between its pull requests 51655 and 54373" in note for note in notes) == told


def test_every_fact_of_a_drafter_has_a_rule():
    assert set(FACTS) <= set(RULES)


def test_a_published_drafter_is_told_how_to_become_an_export(copied, tmp_path):
    directory = copied("canonical")
    (directory / "training.json").unlink()
    for path in ("is_causal", "dflash_config.causal", "rope_parameters"):
        DEFECTS[f"{path} missing"].spoil(directory)
    report = check(directory, SOURCE)
    assert {one.rule for one in report.findings} == {"is_causal", "dflash_config.causal", "rope_parameters"}
    assert any("drafter export" in note for note in report.notes)
    convert(directory, tmp_path / "again")
    again = check(tmp_path / "again", SOURCE)
    assert again.ok
    assert len(again.notes) == 2  # which verifier, and how many tokens a cycle: no one recorded it
    assert again.measured["greedy_mismatches"] == 0


def test_many_alike_are_summed_up(copied):
    directory = copied("canonical")
    DEFECTS["names with a prefix"].spoil(directory)
    assert len(check(directory, SOURCE, dynamic=False).findings) < 12


@pytest.mark.parametrize("broken", ["later context", "another block", "causal", "no context", "serving path"])
def test_the_probe_of_the_mask_notices(broken):
    verifier, drafter = make_verifier(FAMILY), make_drafter(make_verifier(FAMILY))
    assert not list(leaks(drafter, verifier))
    forward = drafter.forward

    def spoilt(block, taps, anchors):
        if broken == "later context":
            return forward(block, taps, anchors + 1)
        if broken == "another block":
            return forward(block + block.mean(1, keepdim=True), taps, anchors)
        if broken == "causal":
            return torch.cat([forward(block[:, :, : i + 1], taps, anchors)[:, :, -1:] for i in range(4)], 2)
        if broken == "no context":
            return forward(block, torch.zeros_like(taps), anchors)
        return forward(block, taps, anchors) + 1

    drafter.forward = spoilt
    assert list(leaks(drafter, verifier))


def test_drift_is_judged_by_the_gain_over_plain_decoding(copied):
    directory = copied("canonical")
    path = directory / "training.json"
    record = json.loads(path.read_text())
    record["probe"]["tokens_per_cycle"] += 0.5
    path.write_text(json.dumps(record))
    assert [one.rule for one in check(directory, SOURCE).findings] == ["tokens_per_cycle"]
    assert check(directory, SOURCE, tolerance=0.9).ok


def test_a_verifier_is_read_without_its_weights(tmp_path):
    model, tokenizer = tiny.build(FAMILY)
    model.config.architectures = ["Qwen3ForCausalLM"]
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    facts = VerifierFacts.load(str(tmp_path))
    assert facts.truths == {
        "verifier_architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 64,
        "vocab_size": 288,
        "num_target_layers": 6,
        "rope_theta": 10000.0,
    }
    assert facts.special == {0: "eos and pad"}
    with pytest.raises(ValueError, match="can't be read"):
        VerifierFacts.load("someone/unknown")


ODD = {"half a dimension": {"head_dim": 1.5}, "a dtype of no name": {"dtype": "x"}, "a list": {"model_type": ["llama"]}}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_a_verifier_whose_config_is_broken_ends_in_a_line(changes, tmp_path):
    verifier = make_verifier("llama")
    verifier.model.config.save_pretrained(tmp_path)
    verifier.tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for load in (VerifierFacts.load, context_length, Verifier.load):
        with pytest.raises(ValueError) as caught:
            load(str(tmp_path))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_decoder_that_changes_answers_is_found(good, monkeypatch):
    """Should the decoder itself be wrong, the check says that, and does not blame the export."""

    def wrong(*arguments):
        return replace(compare_greedy(*arguments), mismatches=2)

    monkeypatch.setattr("drafter.check.behaviour.compare_greedy", wrong)
    report = check(good / "canonical", SOURCE)
    assert [one.rule for one in report.findings] == ["greedy"]
