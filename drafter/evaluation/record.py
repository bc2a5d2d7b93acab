"""What an evaluation keeps: figures, prompt by prompt, in JSON and CSV, and the report that is made of them alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drafter.evaluation.asking import SuiteRun, slices
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.diagnosis import diagnosis
from drafter.evaluation.parts import measure_costs
from drafter.evaluation.passages import passages
from drafter.evaluation.paying import TREES, what_pays
from drafter.evaluation.suites import Suite
from drafter.export.record import hardware, provenance
from drafter.files import write_csv, write_json
from drafter.models import BlockDiffusionDrafter
from drafter.models.base import Drafter
from drafter.verifier import Verifier

NAME = "evaluation.json"
REPEATS = 5  # of each pass that is timed
NO_SLOTS = (
    "What slots say is not in here: answers were sampled, decoded by a rule that is not lossless, or the drafter is of "
    "a kind that does not draft at every position at once."
)


def figures(found: Mapping[str, SuiteRun], verifier: Verifier, drafter: Drafter | None) -> dict[str, Any]:
    """What one drafter's suites say.

    Args:
        drafter: given, its passes are timed, and answers are shown token by token; None leaves both out.
    """
    observed = {name: one for name, one in found.items() if any(each is not None for each in one.observed)}
    slots = {
        name: diagnosis(one.observed, lambda token: verifier.tokenizer.decode([token]))
        for name, one in observed.items()
    }
    report: dict[str, Any] = {
        "suites": {name: one.cycles.figures() for name, one in found.items()},
        "all": Cycles.together([one.cycles for one in found.values()]).figures(),
        "slices": {name: slices(one) for name, one in found.items()},
        "slots": slots,
        "prompts": {name: one.prompts() for name, one in found.items()},
    }
    if drafter is None:
        return report
    report["passages"] = {name: passages(one, verifier.tokenizer) for name, one in found.items()}
    if observed and isinstance(drafter, BlockDiffusionDrafter):
        asked = [one.ids for each in observed.values() for one in each.asked]
        context = sum(map(len, asked)) // len(asked)
        costs = measure_costs(verifier, drafter, context, REPEATS, widest=1 + TREES[-1])
        report["costs"] = {"context": context, "draft": costs.draft, "verify": costs.verify}
        report["pays"] = {
            name: what_pays(one.observed, [answer.token_ids for answer in one.answers], costs)
            for name, one in observed.items()
        }
    else:
        report["slots_missing"] = NO_SLOTS
    return report


def facts(
    drafter: str, source: str, verifier: Verifier, suites: Mapping[str, Suite], settings: dict[str, Any]
) -> dict[str, Any]:
    """What was evaluated, beside what, asked how, on which machine."""
    kept = ("template", "thinking", "temperature", "max_new_tokens")
    return {
        "drafter": drafter,
        "verifier": source,
        "fingerprint": verifier.fingerprint(),
        "by": settings["by"],
        "dtype": str(verifier.dtype).removeprefix("torch."),
        "hardware": hardware(str(verifier.device)),
        "asked": {name: {key: asdict(suite)[key] for key in kept} for name, suite in suites.items()},
        "settings": settings,
        "provenance": provenance(),
    }


def save(record: dict[str, Any], directory: Path) -> None:
    """`evaluation.json`, `evaluation.csv` (a row for each prompt) and `report.html`."""
    from drafter.evaluation.report.evaluated import evaluation_page

    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / NAME, record)
    write_csv(
        directory / "evaluation.csv",
        [{"suite": name, **one} for name, prompts in record["prompts"].items() for one in prompts],
    )
    evaluation_page(json.loads((directory / NAME).read_text())).save_html(directory / "report.html")
