"""Check an export before it leaves: what engines would load without a word, wrong.

The static part reads `config.json`, every tensor, the verifier's config and tokenizer, and rows of its head where the
export holds some. The dynamic part loads both models, in float32 unless the verifier is asked for in fewer bits, and
decodes. An export without a finding is fit to be served.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafter.check.behaviour import TOLERANCE, check_behaviour
from drafter.check.fields import check_fields
from drafter.check.push_forward import check_push_forward
from drafter.check.report import Finding, Report
from drafter.check.tensors import check_files, check_head, check_tensors, check_tokenizer, check_vocabulary
from drafter.check.verifier import VerifierFacts
from drafter.export.record import longest_row, read_record
from drafter.export.serve import serve_commands
from drafter.layouts import RULES, SHAPES, Layout, detect
from drafter.layouts.weights import Weights
from drafter.models import PushForwardModel
from drafter.models.storage import read_config

__all__ = ["Finding", "Report", "check"]


def check(
    directory: str | Path,
    verifier: str,
    *,
    dynamic: bool = True,
    tolerance: float = TOLERANCE,
    device: str = "cpu",
    verifier_dtype: str = "float32",
) -> Report:
    """Hold an export to the contract.

    Args:
        verifier: hub id, directory, GGUF file or packaged name, as everywhere.
        dynamic: also load both and decode.
        tolerance: share of the gain over plain decoding that may be lost or won against training.
        verifier_dtype: of the verifier's weights; half precision takes half the memory, and decides ties.
    Raises:
        ValueError: there is no export, or the verifier can't be read.
    """
    path = Path(directory)
    if not path.is_dir():
        raise ValueError(f"export={str(directory)!r}: no such directory; check the path")
    theirs = VerifierFacts.load(verifier)
    report = Report(str(directory), verifier)
    record: dict[str, Any] = {}
    try:
        config, record = read_config(path), read_record(path)
        if PushForwardModel.recognises(config):
            return check_push_forward(path, config, record, theirs, report, dynamic, device)
        layout = detect(config)
    except ValueError as error:
        report.findings.append(Finding("files", str(error)))
        return report
    report.layout = layout.name
    trained = record.get("facts") or {}
    if not trained:
        report.notes.append("training.json is not there or holds no facts: the config was not compared with training")
    report.findings += check_fields(config, layout, theirs, trained)
    report.findings += check_files(path)
    _weights(path, config, layout, theirs, trained, record, report)
    report.findings += check_tokenizer(record, theirs)
    longest = longest_row(dict(record))
    if longest is not None and longest < theirs.longest:
        report.notes.append(
            f"trained on rows of at most {longest} tokens, the verifier reads {theirs.longest}: further on, what is "
            "accepted was never trained for, and is less"
        )
    if theirs.family.startswith("gemma"):
        report.notes.append(
            f"a {theirs.family} verifier scales its embeddings outside of the table that vLLM lends (read in 0.32): "
            "there this drafter, trained on scaled ones, keeps few drafts; transformers scales them"
        )
    if theirs.rotates_neighbours:
        report.notes.append(
            f"a {theirs.family} verifier rotates pairs of neighbours, this drafter halves: vLLM built between its pull "
            "requests 51655 and 54373 (2026) rotates the drafter as its verifier and keeps few drafts; 0.32 is later"
        )
    if dynamic and report.ok:
        check_behaviour(path, verifier, record, report, tolerance, device, verifier_dtype)
    elif dynamic:
        report.notes.append("nothing was decoded: correct the above first")
    if not (report.ok or trained):
        report.notes.append(
            f"`drafter export {shlex.quote(str(directory))} OUT` writes every field that is missing here"
        )
    if report.ok:
        report.serve = serve_commands(str(directory), layout.name, layout.read(config), theirs.where)
    return report


def _weights(
    path: Path,
    config: Mapping[str, Any],
    layout: Layout,
    theirs: VerifierFacts,
    trained: Mapping[str, Any],
    record: Mapping[str, Any],
    report: Report,
) -> None:
    try:
        weights = Weights(path)
    except ValueError as error:
        report.findings.append(Finding("weights", str(error)))
        return
    facts = dict(trained)
    for fact, value in layout.read(config).items():
        if fact not in RULES or RULES[fact][0](value) or fact not in facts:
            facts[fact] = value
    unknown = [fact for fact in (*SHAPES, "vocab_size") if fact not in facts or not RULES[fact][0](facts[fact])]
    if unknown:
        report.notes.append(f"tensors were not checked: {', '.join(unknown)} must be right first")
        return
    report.findings += check_tensors(weights, layout, facts, record.get("sha256") or {})
    report.findings += check_vocabulary(path, weights, layout, facts)
    if report.ok:  # else a row may be none
        try:
            report.findings += check_head(weights, theirs)
        except ValueError as error:
            report.notes.append(f"rows of the head were not compared with the verifier's: {error}")
