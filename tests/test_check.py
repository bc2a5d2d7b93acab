"""`check`: a good export passes in every layout; each deliberate defect is named in a line that says what to do."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MASK_TOKEN, make_drafter, make_memorising, make_prompts, make_verifier
from defects import DEFECTS

from drafter import tiny
from drafter.check import check
from drafter.check.behaviour import leaks
from drafter.check.fields import RULES
from drafter.check.verifier import VerifierFacts
from drafter.export import convert, export
from drafter.export.record import tokenizer_hash
from drafter.layouts import FACTS, LAYOUTS
from drafter.probe import probe
from drafter.verifier import Verifier

FAMILY = "qwen3"
SOURCE = f"tiny-{FAMILY}"
REMEDY = re.compile(
    r"write|must|export|remove|name |correct|choose|copy|train with|check|download|train again|start from"
)


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A trained drafter's exports, one per layout; the speculators one with a draft vocabulary."""
    folder = tmp_path_factory.mktemp("exports")
    verifier, drafter = make_verifier(FAMILY), make_memorising(FAMILY)
    known = {
        "recipe": {"name": "tiny", "verifier": {"source": SOURCE}},
        "verifier": verifier.fingerprint(),
        "tokenizer": tokenizer_hash(verifier.tokenizer),
        "probe": probe(verifier, drafter, make_prompts()[:4]).as_dict(),
    }
    export(drafter, folder / "canonical", known)
    convert(folder / "canonical", folder / "transformers", "transformers")
    drafter.vocabulary = torch.arange(3, 259)
    try:
        known["probe"] = probe(verifier, drafter, make_prompts()[:4]).as_dict()
        export(drafter, folder / "restricted", known)
    finally:
        drafter.vocabulary = None
    convert(folder / "restricted", folder / "speculators", "speculators")
    return folder


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


def test_the_table_in_the_documentation_is_that_of_the_tests(copied, tmp_path):
    text = (Path(__file__).parent.parent / "docs/serving.md").read_text()
    missing = [name for name in DEFECTS if f"| {name} |" not in text]
    assert not missing
    assert len(DEFECTS) >= 30
