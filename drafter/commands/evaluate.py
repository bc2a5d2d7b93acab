"""A drafter on suites of prompts: tokens per cycle, what each slot accepts, intervals over prompts.

Cycles are those of the real decoder or, with `--by walk`, of the walk along the verifier's own greedy answers. With
`--engine URL` a vLLM server that decodes with the drafter is asked too, and its own counters stand beside; with `--by
engine` they stand alone, and neither model is loaded here. With
`--against OTHER` a second drafter sees the same prompts, and the gain over it comes with a paired interval.
"""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drafter.commands import decoding
from drafter.commands.endings import ending

if TYPE_CHECKING:
    from drafter.decode import Generation
    from drafter.evaluation.cycles import Cycles
    from drafter.models import Drafter
    from drafter.verifier import Verifier

log = logging.getLogger(__name__)
BY = ("decoder", "walk", "engine")
SHOWN = ("suite", "prompts", "tokens_per_cycle", "low", "high", "accepted_per_cycle", "accepted_when_reached")


def arguments(parser: ArgumentParser) -> None:
    decoding.add_models(parser, "float32")
    decoding.add_suites(parser, None)
    decoding.add_sampling(parser)
    parser.add_argument("--by", choices=BY, default="decoder", help="whose cycles; default: decoder")
    parser.add_argument("--draft-length", type=int, help="tokens proposed per cycle; default: the trained number")
    parser.add_argument("--against", metavar="OTHER", help="a second drafter, compared prompt by prompt")
    parser.add_argument("--engine", metavar="URL", help="ask a vLLM server too, such as http://localhost:8000/v1")
    parser.add_argument("--model", metavar="NAME", help="the verifier's name there; default: as --verifier")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts decoded together; default: 16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def run(parsed: Namespace) -> None:
    decoding.require_positive(parsed, "prompts", "max_new_tokens", "batch_size", "draft_length")
    if parsed.by == "walk" and parsed.temperature > 0:
        raise ValueError(f"temperature={parsed.temperature}: the walk is along greedy answers; use --by decoder")
    if parsed.engine and parsed.temperature > 0:
        raise ValueError(f"temperature={parsed.temperature}: --engine is asked for greedy answers; leave it at 0")
    if parsed.by == "engine" and (not parsed.engine or parsed.against):
        raise ValueError("by='engine': asks one server for one drafter; say --engine URL, and leave --against out")
    decoding.check_sampling(parsed, parsed.temperature)
    suites = decoding.read_suites(parsed)
    if parsed.by == "engine":
        _by_engine(parsed, suites)
        return
    drafters = [parsed.drafter, *([parsed.against] if parsed.against else [])]
    longest = [decoding.check_models(parsed, one, (parsed.draft_length, None)) for one in drafters]
    if parsed.by == "walk":
        decoding.require_blocks(drafters)
    vocabulary = decoding.draft_vocabulary(parsed)

    from drafter.evaluation.measured import table
    from drafter.export.record import provenance
    from drafter.files import write_json

    verifier = decoding.load_verifier(parsed)
    prompts = {name: [decoding.encode(verifier, text, parsed.raw) for text in texts] for name, texts in suites.items()}
    answers = _plain(parsed, verifier, prompts) if parsed.by == "walk" else {}
    walks: list[dict[str, Cycles]] = []
    for source, length in zip(drafters, longest, strict=True):
        drafter = decoding.load_drafter(source, verifier, vocabulary)
        slots: dict[str, Any] = {}  # of a walk, which alone sees what follows a wrong draft
        walks.append(_walks(parsed, verifier, drafter, parsed.draft_length or length, prompts, answers, slots))
        print(f"{source}, {parsed.by}, {verifier.dtype}:".replace("torch.", ""))
        found = {name: one.figures() for name, one in walks[-1].items()}
        print(table([{"suite": name, **one} for name, one in found.items()], SHOWN))
        figures = {"suites": found, **({"slots": slots} if slots else {})}
        if len(walks) == 1:
            report: dict[str, Any] = figures
        else:
            report["against"] = {"drafter": source, **figures, "gain": _gain(*walks)}
    if parsed.engine:
        report["engine"] = _served(parsed, walks[0], prompts)
        print(table(report["engine"], tuple(report["engine"][0])))
    if parsed.json:
        write_json(parsed.json, {**report, "settings": decoding.settings(parsed), "provenance": provenance()})
    after = ["benchmark", parsed.drafter, "--verifier", parsed.verifier, "--suites", *parsed.suites]
    print(ending("tokens per cycle are not speed: measure that here", [parsed.json] if parsed.json else [], [after]))


def _by_engine(parsed: Namespace, suites: dict[str, list[str]]) -> None:
    """What a server counts of its own drafts, with no more of the models here than tokenizer and record."""
    from drafter.evaluation.measured import table
    from drafter.export.record import keeps_reasoning, provenance, read_record
    from drafter.files import write_json
    from drafter.models.storage import find
    from drafter.verifier.chat import prompt_ids
    from drafter.verifier.tokenizer import load_tokenizer

    tokenizer, thinks = load_tokenizer(parsed.verifier), keeps_reasoning(read_record(find(parsed.drafter)))

    def encode(text: str) -> list[int]:
        turn = [{"role": "user", "content": text}]
        return tokenizer.encode(text) if parsed.raw else prompt_ids(tokenizer, turn, keep_reasoning=thinks)

    found = _served(parsed, None, {name: [encode(text) for text in texts] for name, texts in suites.items()})
    print(table(found, tuple(found[0])))
    if parsed.json:
        write_json(parsed.json, {"engine": found, "settings": decoding.settings(parsed), "provenance": provenance()})


def _served(
    parsed: Namespace, ours: dict[str, "Cycles"] | None, prompts: dict[str, list[list[int]]]
) -> list[dict[str, Any]]:
    """Draft tokens accepted per cycle of each suite, by the engine's counters, and here where there are figures."""
    from drafter.engine.acceptance import served_acceptance
    from drafter.engine.client import Client

    client, name = Client(parsed.engine, timeout=600.0, retries=2), parsed.model or parsed.verifier
    found = []
    for suite, asked in prompts.items():
        served = served_acceptance(client, name, asked, parsed.max_new_tokens, parsed.batch_size)
        figures: dict[str, Any] = {}
        if ours:  # as an engine counts, a last cycle is not cut where the answer ends
            figures["accepted_here"] = round(ours[suite].figures()["accepted_per_cycle"], 4)
        engine = served.accepted / served.cycles if served.cycles else float("nan")
        figures |= {"accepted_by_engine": round(engine, 4), "tokens_per_cycle": round(served.tokens_per_cycle, 4)}
        figures |= {"cycles": served.cycles}
        at = [round(kept / served.cycles, 4) for kept in served.accepted_at] if served.cycles else []
        found.append({"suite": suite, **figures, "accepted_at_slot": at})
    return found


def _plain(
    parsed: Namespace, verifier: "Verifier", prompts: dict[str, list[list[int]]]
) -> dict[str, list["Generation"]]:
    from drafter.evaluation.decoding import Decoding

    how = {"max_new_tokens": parsed.max_new_tokens, "batch_size": parsed.batch_size}
    return {name: Decoding().decoder(verifier, None, None)(some, **how) for name, some in prompts.items()}


def _walks(
    parsed: Namespace,
    verifier: "Verifier",
    drafter: "Drafter",
    length: int,
    prompts: dict[str, list[list[int]]],
    answers: dict[str, list["Generation"]],
    slots: dict[str, Any],
) -> dict[str, "Cycles"]:
    """The cycles of a drafter on each suite; where it walks, also what its slots say, into `slots`."""
    import torch

    from drafter.evaluation.cycles import Cycles
    from drafter.evaluation.decoding import Decoding
    from drafter.evaluation.metrics import diagnose
    from drafter.evaluation.walk import hits_along, leading_of, walk
    from drafter.models import BlockDiffusionDrafter

    how_drawn = Decoding(parsed.temperature, parsed.top_p, parsed.top_k, parsed.seed, parsed.rule)
    how = {"max_new_tokens": parsed.max_new_tokens, "batch_size": parsed.batch_size}
    found = {}
    for name, some in prompts.items():
        if answers and isinstance(drafter, BlockDiffusionDrafter):
            made = answers[name]
            hits = hits_along(made, some, verifier, drafter)
            found[name] = walk(leading_of(hits), length)
            slots[name] = diagnose(*(torch.cat(side) for side in zip(*hits, strict=True)))
        else:
            made = how_drawn.decoder(verifier, drafter, length)(some, **how)
            found[name] = Cycles.of(made, length)
        for number, one in enumerate(made, 1):
            if not one.token_ids:
                log.warning("%s: prompt %d was left out: %s", name, number, one.stop)
        if not any(found[name].emitted):
            raise ValueError(f"suites: no prompt of {name} gave a cycle; raise max-new-tokens or choose another suite")
    return found


def _gain(ours: dict[str, "Cycles"], theirs: dict[str, "Cycles"]) -> dict[str, dict[str, float]]:
    """Gain in tokens per cycle over the other drafter, per suite, with its paired interval."""
    from drafter.evaluation.cycles import paired
    from drafter.evaluation.statistics import compare

    gains = {}
    for name, walk in ours.items():
        mine, others = paired(walk, theirs[name])
        one = compare(mine, others).gain
        gains[name] = {"gain": one.value, "low": one.low, "high": one.high}
        print(
            f"{name}: {one.value:+.1%} tokens per cycle over the other, 95 % interval {one.low:+.1%} to {one.high:+.1%}"
        )
    return gains
