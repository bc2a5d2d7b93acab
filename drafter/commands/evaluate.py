"""A drafter on suites of prompts: tokens per cycle with intervals, and with `--out` a report of what decides them.

A suite is a name (humaneval, mt_bench, standard_library; gsm8k=FILE and others whose file you have), a YAML file of
your own, or prompts in JSONL, JSON or Parquet. Cycles are those of the real decoder or, with `--by walk`, of the walk
along the verifier's own greedy answers. With `--against OTHER` a second drafter sees the same prompts, and the gain
over it comes with a paired interval. With `--engine URL` a vLLM server that decodes with the drafter is asked too, and
its own counters stand beside; with `--by engine` they stand alone, and neither model is loaded here.
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from drafter.commands import decoding
from drafter.commands.endings import ending
from drafter.commands.served import by_engine, served

if TYPE_CHECKING:
    from drafter.evaluation.asking import SuiteRun
    from drafter.evaluation.suites import Suite

BY = ("decoder", "walk", "engine")
SHOWN = ("suite", "prompts", "tokens_per_cycle", "low", "high", "accepted_per_cycle", "accepted_when_reached")


def arguments(parser: ArgumentParser) -> None:
    decoding.add_models(parser, "float32")
    decoding.add_suites(parser, None)
    decoding.add_sampling(parser)
    parser.set_defaults(temperature=None, max_new_tokens=None)  # as each suite says
    parser.add_argument("--by", choices=BY, default="decoder", help="whose cycles; default: decoder")
    parser.add_argument("--draft-length", type=int, help="tokens proposed per cycle; default: the trained number")
    parser.add_argument("--against", metavar="OTHER", help="a second drafter, compared prompt by prompt")
    parser.add_argument("--engine", metavar="URL", help="ask a vLLM server too, such as http://localhost:8000/v1")
    parser.add_argument("--model", metavar="NAME", help="the verifier's name there; default: as --verifier")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts decoded together; default: 16")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html, evaluation.json and .csv here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def run(parsed: Namespace) -> None:
    decoding.require_positive(parsed, "prompts", "max_new_tokens", "batch_size", "draft_length")
    if parsed.by == "engine" and (not parsed.engine or parsed.against or parsed.out):
        raise ValueError("by='engine': asks one server for one drafter; say --engine URL, without --against and --out")
    suites = decoding.read_suites(parsed)
    for suite, _ in suites.values():
        _check(parsed, suite)
    if parsed.by == "engine":
        by_engine(parsed, suites)
        return
    drafters = [parsed.drafter, *([parsed.against] if parsed.against else [])]
    longest = [decoding.check_models(parsed, one, (parsed.draft_length, None)) for one in drafters]
    if parsed.by == "walk":
        decoding.require_blocks(drafters)
    vocabulary = decoding.draft_vocabulary(parsed)

    from drafter.evaluation import record
    from drafter.evaluation.decoding import Decoding
    from drafter.evaluation.measured import table
    from drafter.evaluation.running import How, run_suite
    from drafter.evaluation.sharing import Company
    from drafter.files import write_json

    company = Company.meet()
    parsed.device = company.device(parsed.device)
    verifier = decoding.load_verifier(parsed)
    found: list[dict[str, SuiteRun]] = []
    for source, length in zip(drafters, longest, strict=True):
        drafter, runs = decoding.load_drafter(source, verifier, vocabulary), {}
        for name, (suite, cases) in suites.items():
            law = Decoding(suite.temperature, parsed.top_p, parsed.top_k, parsed.seed, parsed.rule)
            observes = bool(parsed.out) and not found
            how = How(law, parsed.draft_length or length, parsed.by == "walk", observes, parsed.raw, parsed.batch_size)
            runs[name] = run_suite(suite, cases, verifier, drafter, how, found[0][name] if found else None, company)
        found.append(runs)
        if company.first:
            print(f"{source}, {parsed.by}, {verifier.dtype}:".replace("torch.", ""))
            print(table([{"suite": name, **one.cycles.figures()} for name, one in runs.items()], SHOWN))
        if company.first and len(found) == 1:
            report = record.figures(runs, verifier, drafter if parsed.out else None)
            said = {name: suite for name, (suite, _) in suites.items()}
            report |= record.facts(parsed.drafter, parsed.verifier, verifier, said, decoding.settings(parsed))
    if not company.first:
        return
    if parsed.against:
        report["against"] = {"drafter": parsed.against, **record.figures(found[1], verifier, None)}
        report["against"]["gain"] = _gain(*found)
    if parsed.engine:
        asked = {
            name: ([one.ids for one in each.asked], suites[name][0].max_new_tokens) for name, each in found[0].items()
        }
        report["engine"] = served(parsed, asked, found[0])
        print(table(report["engine"]))
    if parsed.json:
        write_json(parsed.json, report)
    if parsed.out:
        record.save(report, parsed.out)
    written = [parsed.json] if parsed.json else []
    written += [parsed.out / one for one in ("report.html", record.NAME, "evaluation.csv")] if parsed.out else []
    after = ["benchmark", parsed.drafter, "--verifier", parsed.verifier, "--suites", *parsed.suites]
    headline = f"{report['all']['tokens_per_cycle']:.3f} tokens per cycle; what they are worth in time is measured next"
    print(ending(headline, written, [after]))


def _check(parsed: Namespace, suite: "Suite") -> None:
    """Settle what a suite is asked with, and refuse what does not go with it."""
    suite.temperature = suite.temperature if parsed.temperature is None else parsed.temperature
    suite.max_new_tokens = parsed.max_new_tokens or suite.max_new_tokens
    decoding.check_sampling(parsed, suite.temperature)
    if parsed.by == "walk" and suite.temperature > 0:
        raise ValueError(f"temperature={suite.temperature}: the walk is along greedy answers; use --by decoder")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and suite.temperature > 0:
        raise ValueError(
            f"temperature={suite.temperature}: what is drawn follows a prompt's place in one process; run one"
        )
    if parsed.engine and suite.temperature > 0:
        raise ValueError(f"temperature={suite.temperature}: --engine is asked for greedy answers; leave it at 0")


def _gain(ours: dict[str, "SuiteRun"], theirs: dict[str, "SuiteRun"]) -> dict[str, dict[str, float]]:
    """Gain in tokens per cycle over the other drafter, per suite, with its paired interval."""
    from drafter.evaluation.cycles import paired
    from drafter.evaluation.statistics import compare

    gains = {}
    for name, walk in ours.items():
        mine, others = paired(walk.cycles, theirs[name].cycles)
        one = compare(mine, others).gain
        gains[name] = {"gain": one.value, "low": one.low, "high": one.high}
        print(
            f"{name}: {one.value:+.1%} tokens per cycle over the other, 95 % interval {one.low:+.1%} to {one.high:+.1%}"
        )
    return gains
