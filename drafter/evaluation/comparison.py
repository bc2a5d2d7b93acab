"""Evaluations side by side: two drafters, each one run or several seeds, prompt by prompt."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drafter.evaluation.decoding import Decoding
from drafter.evaluation.record import NAME
from drafter.evaluation.statistics import Comparison, Counts, average_gain, compare, estimate

Record = dict[str, Any]
COUNTS = ("emitted", "cycles", "accepted")
ASKED = ("temperature", "max_new_tokens")
LAW = ("rule", "top_p", "top_k")


def read_records(path: Path) -> list[Record]:
    """The evaluations at a path: a file, or every `evaluation.json` below a folder, a seed each, by name.

    Raises:
        ValueError: there is none, or a file is no evaluation.
    """
    files = sorted(path.rglob(NAME)) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(
            f"{path}: no {NAME}; write one by `drafter evaluate DRAFTER --verifier V --suites S --out DIR`"
        )
    return [_read(file) for file in files]


def _read(file: Path) -> Record:
    try:
        record = json.loads(file.read_text())
        suites = record["prompts"]
        whole = all(isinstance(one[name], int) for some in suites.values() for one in some for name in COUNTS)
        if whole and suites and all(key in record for key in ("drafter", "fingerprint", "asked", "settings")):
            return record
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"{file}: no evaluation of this version; write it again by `drafter evaluate ... --out DIR`")


def check_comparable(ours: list[Record], theirs: list[Record]) -> None:
    """Raise a ValueError, one line, unless all were asked the same by the same verifier and answered the same."""
    first, *others = [*ours, *theirs]
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} evaluations against {len(theirs)}: seeds are paired; give as many of both")
    for other in others:
        what = _difference(first, other)
        if what is not None:
            named = f"{first['drafter']} and {other['drafter']}"
            raise ValueError(f"{named} can't be compared, {what}; evaluate both alike, in float32")


def _difference(one: Record, other: Record) -> str | None:
    """Why two evaluations say nothing of each other; None where they do."""
    if one["fingerprint"] != other["fingerprint"]:
        return f"another verifier: {one['verifier']}, {other['verifier']}"
    if list(one["prompts"]) != list(other["prompts"]):
        return f"other suites: {', '.join(one['prompts'])}; {', '.join(other['prompts'])}"
    for suite, prompts in one["prompts"].items():
        law, another = ({**each["settings"], **each["asked"][suite]} for each in (one, other))
        for key in (*ASKED, *LAW):
            if law.get(key) != another.get(key):
                return f"other {key} in {suite}: {law.get(key)!r}, {another.get(key)!r}"
        for key, what in (("asked", "prompts"), ("answered", "answers")):
            same = key == "asked" or Decoding(law["temperature"], rule=law.get("rule")).verifiers_own
            if same and [each[key] for each in prompts] != [each[key] for each in other["prompts"][suite]]:
                return f"other {what} in {suite}"
    return None


def counts_of(records: list[Record], others: list[Record], suite: str) -> Counts:
    """Counts of a suite [seeds, prompts], without prompts that gave no cycle in any of all evaluations.

    Raises:
        ValueError: none is left.
    """
    every = [record["prompts"][suite] for record in (*records, *others)]
    used = [at for at in range(len(every[0])) if all(one[at]["cycles"] for one in every)]
    if not used:
        raise ValueError(f"suites: no prompt of {suite} gave a cycle in all of them; evaluate with longer answers")
    mine = [record["prompts"][suite] for record in records]
    return {
        name: torch.tensor([[one[at][name] for at in used] for one in mine], dtype=torch.float64) for name in COUNTS
    }


def compare_records(ours: list[Record], theirs: list[Record]) -> dict[str, Any]:
    """Each suite and their average: `ours` against `theirs`, in tokens per cycle, as JSON has it.

    Raises:
        ValueError: they can't be compared.
    """
    check_comparable(ours, theirs)
    pairs = {suite: (counts_of(ours, theirs, suite), counts_of(theirs, ours, suite)) for suite in ours[0]["prompts"]}
    found: dict[str, Comparison] = {suite: compare(*pair) for suite, pair in pairs.items()}
    other = {suite: estimate(base) for suite, (_, base) in pairs.items()}
    average = average_gain(pairs)
    return {
        "drafters": [ours[0]["drafter"], theirs[0]["drafter"]],
        "verifier": ours[0]["verifier"],
        "seeds": len(ours),
        "suites": {suite: asdict(one) | {"other": asdict(other[suite])} for suite, one in found.items()},
        "average_gain": asdict(average) | {"above_zero": average.above_zero, "hint": average.hint},
    }
