"""Good exports to be spoilt, and the table of the documentation: `python tests/defect_table.py` prints it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from conftest import make_memorising, make_prompts, make_verifier
from defects import DEFECTS

from drafter.check import check
from drafter.evaluation.probe import probe
from drafter.export import convert, export
from drafter.verifier.tokenizer import tokenizer_hash

FAMILY = "qwen3"
SOURCE = f"tiny-{FAMILY}"


def make_good(folder: Path) -> Path:
    """A trained drafter's exports, one per layout; the speculators one with a draft vocabulary."""
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


def table() -> Iterator[str]:
    """A line per defect, with what `check` says of it."""
    with TemporaryDirectory() as scratch:
        good = make_good(Path(scratch) / "good")
        yield "| defect | named | what `check` says |"
        yield "| --- | --- | --- |"
        for number, (name, defect) in enumerate(DEFECTS.items()):
            place = Path(scratch) / str(number)
            directory = Path(shutil.copytree(good / defect.layout, place / "EXPORT"))
            defect.spoil(directory)
            source = SOURCE if defect.verifier is None else defect.verifier(place / "VERIFIER")
            found = check(directory, source, dynamic=defect.dynamic).findings
            line = next(one.message for one in found if one.rule == defect.rule)
            line = line.replace(f"{place}/", "").replace("|", "\\|")
            yield f"| {name} | `{defect.rule}` | {line} |"


if __name__ == "__main__":
    print("\n".join(table()))
