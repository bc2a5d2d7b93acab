"""Prompts → the verifier's own answers, written to the recipe's data.answers; a killed run goes on where it was."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, help="write here instead of data.answers")


def run(parsed: Namespace) -> None:
    from tqdm import tqdm

    from drafter.config import load
    from drafter.regenerate import regenerate_recipe

    config = load(parsed.recipe, parsed.overrides)
    with tqdm(desc="answers", unit="row") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        regenerate_recipe(config, parsed.out or Path(config.data.answers), show)
