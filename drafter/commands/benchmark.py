"""A drafter against plain decoding: suites × temperatures × batch sizes × draft lengths → table, CSV, report.

Everything takes turns in one process: the loop without drafts (draft length 0, always measured), with them, and the
passes that a cycle is made of. Speed-ups are over draft length 0; the ideal counts the passes alone.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from drafter.commands import decoding


def arguments(parser: ArgumentParser) -> None:
    decoding.add_models(parser, "auto")
    decoding.add_suites(parser, 8)
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.0], metavar="T", help="default: 0")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1], metavar="B", help="default: 1")
    number: dict[str, Any] = {"nargs": "+", "type": decoding.number_or_auto, "metavar": "N|auto"}
    parser.add_argument("--draft-lengths", **number, help="default: the trained number, unless there are trees")
    parser.add_argument("--tree-nodes", **number, default=[], help="also trees of so many tokens")
    decoding.add_law(parser)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median counts; default: 3")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and benchmark.csv here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def run(parsed: Namespace) -> None:
    decoding.require_positive(parsed, "prompts", "max_new_tokens", "batch_sizes", "repeats")
    if parsed.max_new_tokens < 2:
        raise ValueError(f"max-new-tokens={parsed.max_new_tokens}: must be >= 2; the first token is the prefill's")
    for temperature in parsed.temperatures:
        decoding.check_sampling(parsed, temperature)
    suites = decoding.read_suites(parsed)
    wanted = [(length, None) for length in parsed.draft_lengths or []] + [(None, nodes) for nodes in parsed.tree_nodes]
    longest = decoding.check_models(parsed, parsed.drafter, *wanted)
    vocabulary = decoding.draft_vocabulary(parsed)

    from tqdm import tqdm

    from drafter.commands.endings import ending
    from drafter.evaluation import grid
    from drafter.evaluation.decoding import Decoding
    from drafter.evaluation.measured import table
    from drafter.evaluation.report.benchmarked import benchmark_page, finding
    from drafter.export.record import hardware, provenance
    from drafter.files import write_csv, write_json

    verifier = decoding.load_verifier(parsed)
    drafter = decoding.load_drafter(parsed.drafter, verifier, vocabulary)
    how = Decoding(0.0, parsed.top_p, parsed.top_k, parsed.seed, parsed.rule)
    drafts = [grid.Drafts(*one) for one in wanted or [(longest, None)]]
    asked = grid.Grid(parsed.temperatures, parsed.batch_sizes, drafts, parsed.max_new_tokens, parsed.repeats, how)
    prompts = {
        name: [decoding.encode(verifier, case.turns[0], parsed.raw) for case in cases]
        for name, (_, cases) in suites.items()
    }
    total = len(prompts) * len(parsed.temperatures) * len(parsed.batch_sizes) * len({grid.Drafts(0), *drafts})
    cells = list(tqdm(grid.measure(verifier, drafter, prompts, asked), total=total, desc="cells", leave=False))
    lines = [cell.figures() for cell in cells]
    about = f"{hardware(str(verifier.device))}; {verifier.dtype}; attention {verifier.kernel}".replace("torch.", "")
    print(f"{about}\n\n{table(lines, grid.COLUMNS)}")
    if parsed.out:
        parsed.out.mkdir(parents=True, exist_ok=True)
        write_csv(parsed.out / "benchmark.csv", lines)
        facts = {name: str(value) for name, value in decoding.settings(parsed).items()}
        benchmark_page(cells, facts | {"measured on": about, **provenance()}).save_html(parsed.out / "report.html")
    if parsed.json:
        found = {"cells": lines, "hardware": about, "settings": decoding.settings(parsed)}
        write_json(parsed.json, {**found, "provenance": provenance()})
    if parsed.out:
        print(ending(finding(cells), [parsed.out / "report.html", parsed.out / "benchmark.csv"], []))
