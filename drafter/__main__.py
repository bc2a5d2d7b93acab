"""Block-diffusion drafters for a frozen verifier: train, decode, measure, export."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from drafter.commands import COMMANDS
from drafter.commands.errors import one_line_errors
from drafter.commands.places import check_places


class Command(ArgumentParser):
    """A command whose positional arguments may stand anywhere between its options."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:  # the method below calls this one, for options and then for the rest
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            found, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
        if unknown:  # said here, with the command's own usage
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def make_parser() -> ArgumentParser:
    """What the command line may say."""
    parser = ArgumentParser(prog="drafter", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Command)
    for name in COMMANDS:
        module = import_module(f"drafter.commands.{name}")
        about = (module.__doc__ or "").strip()
        command = commands.add_parser(name, help=about.splitlines()[0], description=about)
        module.arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    parsed = make_parser().parse_args(words)
    with one_line_errors():
        check_places(parsed)
        parsed.run(parsed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
