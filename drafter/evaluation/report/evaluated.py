"""The report of an evaluation, from its record alone: what was found first, how it was made last."""

import json
import math
from typing import Any

from drafter.evaluation.passages import WORDS, element
from drafter.evaluation.report import plots
from drafter.evaluation.report.page import Page

METHOD = (
    "Tokens per cycle: tokens emitted by cycles over cycles, summed over prompts; the prefill's token is in none, the "
    "last cycle is cut where the answer ends. Intervals hold 95 % of a bootstrap over prompts. What slots say "
    "(calibration, classes, entropy, first errors, waste) is of blocks at every position of the answers, not only "
    "where a cycle began. Waste: of the right drafts, the share behind a wrong one. The marginal product takes slots "
    "for independent, as some frameworks do; it is no count. Which drafts pay: tokens per cycle along these answers "
    "over the time of the passes, one row, measured here; what the host does between them is not in it."
)


def evaluation_page(record: dict[str, Any]) -> Page:
    """A page of what `drafter evaluate` wrote."""
    suites, whole = record["suites"], record["all"]
    page = Page(f"Evaluation: {record['drafter']}")
    page.lead(
        f"{number(whole['tokens_per_cycle'])} tokens per cycle {span(whole)} on {whole['prompts']} prompts of "
        f"{', '.join(suites)}: so many tokens each pass of the verifier writes, where plain decoding writes one."
    )
    for name, ways in record.get("pays", {}).items():
        page.text(_advice(name, ways[0], record["dtype"]))
    page.picture(plots.headline(suites))
    _gain(page, record)
    _suites(page, record)
    for name, figures in suites.items():
        page.heading(f"{name}: slot by slot")
        page.picture(plots.of_suite(name, figures, record["slots"].get(name), record.get("pays", {}).get(name, ())))
        _passages(page, record["passages"].get(name, []))
    _slots(page, record)
    _slices(page, record)
    _facts(page, record)
    return page


def _advice(name: str, best: dict[str, Any], dtype: str) -> str:
    """Which way of drafting pays for a suite, in words."""
    here, speed = f"On this machine, in {dtype}, for {name},", f"{best['ideal']:.2f} times"
    if best["ideal"] <= 1:
        return (
            f"{here} no way of drafting pays: the best, {best['drafts']}, would be {speed} as fast as plain decoding."
        )
    tokens = f"{best['tokens_per_cycle']:.2f} tokens per cycle"
    return (
        f"{here} {best['drafts']} pays most: {speed} the speed of plain decoding if a cycle were its passes alone, "
        f"at {tokens}."
    )


def _gain(page: Page, record: dict[str, Any]) -> None:
    against = record.get("against")
    if against:
        page.heading(f"Against {against['drafter']}")
        rows = [
            [name, number(against["suites"][name]["tokens_per_cycle"]), f"{one['gain']:+.1%} {span(one, '+.1%')}"]
            for name, one in against["gain"].items()
        ]
        page.table(["suite", "the other's tokens per cycle", "gain over it, prompt by prompt"], rows)


def _suites(page: Page, record: dict[str, Any]) -> None:
    page.heading("Suites")
    rows = []
    for name, one in record["suites"].items():
        counts = [str(one["prompts"]), f"{number(one['tokens_per_cycle'])} {span(one)}"]
        slots = " ".join(number(share, 2) for share in one["accepted_when_reached"])
        rows.append([name, *counts, number(one["accepted_per_cycle"]), str(one["cycles"]), slots])
    head = ["suite", "prompts", "tokens per cycle", "accepted per cycle", "cycles", "kept per slot, of those reached"]
    page.table(head, rows)


def _passages(page: Page, found: list[dict[str, Any]]) -> None:
    if found:
        marks = ", ".join(f'<span class="{kind}">{told}</span>' for kind, told in WORDS.items())
        wasted = '<span class="wasted">a token that an earlier draft had right, behind a wrong one</span>'
        page.element(f"<p>Token by token, worst first, then best: {marks}; {wasted}.</p>")
        ends: set[str] = set()
        for one in found:
            page.element(element(one, one["end"] not in ends))  # the first of each end is open
            ends.add(one["end"])


def _slots(page: Page, record: dict[str, Any]) -> None:
    if record.get("slots_missing"):
        page.text(record["slots_missing"])
    found = record["slots"]
    if not found:
        return
    page.heading("What slots say")
    lines = {
        "blocks": "blocks",
        "expected length by label probability": "expected_length_by_label_probability",
        "expected length by marginal product": "expected_length_by_marginal_product",
        "waste": "waste",
        "calibration error": "calibration_error",
    }
    rows = [[label, *(number(one[key]) for one in found.values())] for label, key in lines.items()]
    errors = dict.fromkeys(key for one in found.values() for key in one["at_first_error"])
    for key in errors:
        rows.append(
            [
                f"at the first error: {key.replace('_', ' ')}",
                *(number(one["at_first_error"][key]) for one in found.values()),
            ]
        )
    page.table(["figure", *found], rows)


def _slices(page: Page, record: dict[str, Any]) -> None:
    rows = [
        [name, kind, value, str(one["prompts"]), f"{number(one['tokens_per_cycle'])} {span(one)}"]
        for name, kinds in record["slices"].items()
        for kind, values in kinds.items()
        for value, one in values.items()
    ]
    if rows:
        page.heading("By kind of prompt")
        page.table(["suite", "by", "value", "prompts", "tokens per cycle"], rows)


def _facts(page: Page, record: dict[str, Any]) -> None:
    page.heading("How this was made")
    page.text(METHOD)
    facts = {key: record[key] for key in ("drafter", "verifier", "fingerprint", "by", "dtype", "hardware")}
    facts |= {f"suite {name}": json.dumps(one) for name, one in record["asked"].items()}
    facts |= {f"setting {key}": json.dumps(value) for key, value in record["settings"].items() if value is not None}
    page.table(["fact", "value"], [[key, str(value)] for key, value in (facts | record["provenance"]).items()])


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is not defined; counts as they are."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def span(one: dict[str, Any], form: str = ".3f") -> str:
    """An interval; nothing where it is not defined."""
    low, high = one["low"], one["high"]
    return "" if low is None or math.isnan(low) else f"[{low:{form}}, {high:{form}}]"
