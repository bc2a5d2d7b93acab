"""A recipe → a run in runs/<name>/: train, evaluate, export. A killed run goes on with the same command.

`python train.py RECIPE` is the same.
"""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from drafter.commands import add_recipe

if TYPE_CHECKING:
    from drafter.config import RunConfig


def arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the recipe as it is resolved, and what it takes")


def run(parsed: Namespace) -> None:
    from drafter.config import RunConfig, as_yaml, load_as

    config = load_as(RunConfig, parsed.recipe, parsed.overrides)
    if parsed.dry_run:
        print(as_yaml(config), end="")
        for line in foreseen(config, parsed.recipe, parsed.overrides):
            print(f"# {line}")
        return
    from drafter.commands.endings import run_ending
    from drafter.machine.memory import keep_freed_memory
    from drafter.training import runs  # late: a wrong recipe should not wait for torch

    keep_freed_memory()
    summary = runs.run(config)
    if summary:  # only the first rank has one
        verifier = getattr(config, "verifier", None)
        print(run_ending(config.directory, verifier.source if verifier else "", summary, config.system))


def foreseen(config: "RunConfig", recipe: str, overrides: list[str]) -> list[str]:
    """What is checked of a recipe without a weight being loaded, and what its run will take."""
    from drafter.commands.doctor import check_recipe
    from drafter.training import runs

    return [*(str(fact) for fact in check_recipe(recipe, overrides)), *runs.outlook(config)]
