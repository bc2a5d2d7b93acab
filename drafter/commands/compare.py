"""Two drafters side by side, from what `evaluate --out` wrote: gains in tokens per cycle, paired prompt by prompt.

A and B are each an evaluation.json or a folder; of a folder with several evaluations, each is a seed, paired in the
order of their names. Nothing is loaded or decoded. Of one seed a gain is a hint: its interval is over prompts alone.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("ours", metavar="A", type=Path, help="evaluation.json, or a folder with one or several")
    parser.add_argument("theirs", metavar="B", type=Path, help="what A is compared with")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write comparison.json and report.html here")


def run(parsed: Namespace) -> None:
    from drafter.commands.endings import ending
    from drafter.evaluation.comparison import compare_records, read_records
    from drafter.evaluation.measured import table
    from drafter.evaluation.report.compared import comparison_page, lines, sentence
    from drafter.files import write_json

    found = compare_records(read_records(parsed.ours), read_records(parsed.theirs))
    print(table(lines(found)))
    if parsed.out:
        parsed.out.mkdir(parents=True, exist_ok=True)
        write_json(parsed.out / "comparison.json", found)
        comparison_page(found).save_html(parsed.out / "report.html")
    print(ending(sentence(found), [parsed.out] if parsed.out else [], []))
