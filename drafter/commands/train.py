"""A recipe → a run in runs/<name>/: train, evaluate, export. A killed run goes on with the same command.

`python train.py RECIPE` is the same.
"""

from argparse import ArgumentParser, Namespace


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of one that ships, as quickstart")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="every key of a recipe can be overridden")


def run(parsed: Namespace) -> None:
    from drafter.config import load

    config = load(parsed.recipe, parsed.overrides)
    from drafter.commands.endings import run_ending
    from drafter.machine.memory import keep_freed_memory
    from drafter.training import runs  # late: a wrong recipe should not wait for torch

    keep_freed_memory()
    summary = runs.run(config)
    if summary:  # only the first rank has one
        print(run_ending(config.directory, config.verifier.source, summary))
