"""Prompts → the verifier's own answers, written to the recipe's data.answers; a killed run goes on where it was.

The verifier answers here, or a server does (data.server). Prints what was written and what has no answer.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from drafter.commands import add_recipe


def arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--out", type=Path, help="write here instead of data.answers: a folder, or a .parquet file")
    parser.add_argument("--json", type=Path, help="write the counts here too")


def run(parsed: Namespace) -> None:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from drafter.commands.endings import ending
    from drafter.config import load
    from drafter.files import write_json
    from drafter.regenerate import regenerate_recipe

    config = load(parsed.recipe, parsed.overrides)
    path = parsed.out or Path(config.data.answers)
    with tqdm(desc="answers", unit="prompt", smoothing=0.05) as bar, logging_redirect_tqdm():

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = regenerate_recipe(config, path, show)
    there = [f"data.answers={path}"] if parsed.out else []
    print(ending(report(path, summary), [], [["train", parsed.recipe, *parsed.overrides, *there]]))
    if parsed.json:
        write_json(parsed.json, {"answers": str(path), **summary})


def report(path: Path, summary: dict[str, Any]) -> str:
    """One line of counts, and one for each reason why something is missing."""
    lines = [f"{path}: {summary['rows']} rows, {summary['tokens']} tokens of {summary['prompts']} prompts"]
    lines += [f"  without an answer: {count} ({reason})" for reason, count in summary["failed"].items()]
    lines += [f"  rows that are no prompt: {count} ({reason})" for reason, count in summary["bad_rows"].items()]
    return "\n".join(lines)
