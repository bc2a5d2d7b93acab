"""The commands of `drafter`, one file each: a docstring for its help, `arguments(parser)` and `run(parsed)`.

Their modules import nothing heavy at the top, so that `--help` and a wrong recipe answer at once.
"""

from argparse import ArgumentParser

COMMANDS = (
    "train",
    "engine",
    "regenerate",
    "ablate",
    "evaluate",
    "compare",
    "generate",
    "benchmark",
    "frontier",
    "export",
    "check",
    "doctor",
)


def add_recipe(parser: ArgumentParser) -> None:
    """RECIPE and its overrides."""
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of one that ships, as quickstart")
    what = "every key of a recipe can be overridden"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=what)
