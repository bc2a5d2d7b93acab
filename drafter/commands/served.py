"""`evaluate --engine URL`: what a server that decodes with the drafter counts of its own drafts."""

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drafter.commands import decoding

if TYPE_CHECKING:
    from drafter.evaluation.asking import SuiteRun
    from drafter.evaluation.suites import Case, Suite


def by_engine(parsed: Namespace, suites: "Mapping[str, tuple[Suite, list[Case]]]") -> None:
    """A server's counters alone, with no more of the models here than tokenizer and record; of cases, first turns."""
    from drafter.evaluation.measured import table
    from drafter.export.record import keeps_reasoning, provenance, read_record
    from drafter.files import write_json
    from drafter.models.storage import find
    from drafter.verifier.chat import prompt_ids
    from drafter.verifier.tokenizer import load_tokenizer

    tokenizer, thinks = load_tokenizer(parsed.verifier), keeps_reasoning(read_record(find(parsed.drafter)))

    def encode(text: str, suite: "Suite") -> list[int]:
        turn = [{"role": "user", "content": text}]
        thinking = thinks if suite.thinking is None else suite.thinking
        return tokenizer.encode(text) if parsed.raw else prompt_ids(tokenizer, turn, keep_reasoning=thinking)

    asked = {
        name: ([encode(case.turns[0], suite) for case in cases], suite.max_new_tokens)
        for name, (suite, cases) in suites.items()
    }
    found = served(parsed, asked)
    print(table(found))
    if parsed.json:
        write_json(parsed.json, {"engine": found, "settings": decoding.settings(parsed), "provenance": provenance()})


def served(
    parsed: Namespace, asked: Mapping[str, tuple[list[list[int]], int]], ours: "Mapping[str, SuiteRun] | None" = None
) -> list[dict[str, Any]]:
    """Draft tokens accepted per cycle of each suite, by the engine's counters, and here where there are figures.

    Args:
        asked: suite → prompts as token ids, and the longest answer.
    """
    from drafter.engine.acceptance import served_acceptance
    from drafter.engine.client import Client

    client, name = Client(parsed.engine, timeout=600.0, retries=2), parsed.model or parsed.verifier
    found = []
    for suite, (prompts, longest) in asked.items():
        counted = served_acceptance(client, name, prompts, longest, parsed.batch_size)
        figures: dict[str, Any] = {}
        if ours:  # as an engine counts, a last cycle is not cut where the answer ends
            figures["accepted_here"] = round(ours[suite].cycles.accepted_per_cycle, 4)
        engine = counted.accepted / counted.cycles if counted.cycles else float("nan")
        figures |= {"accepted_by_engine": round(engine, 4), "tokens_per_cycle": round(counted.tokens_per_cycle, 4)}
        figures |= {"cycles": counted.cycles}
        at = [round(kept / counted.cycles, 4) for kept in counted.accepted_at] if counted.cycles else []
        found.append({"suite": suite, **figures, "accepted_at_slot": at})
    return found
