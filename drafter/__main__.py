"""python -m drafter COMMAND: what one does with a drafter besides training it."""

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from drafter.commands import COMMANDS


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show users messages, not tracebacks: a ValueError, or an error of the file system, ends the program in a line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        yield
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = error.filename or "input/output"
        sys.exit(f"error: {where}: {error.strerror or error}; free space or choose another path")


class Command(ArgumentParser):
    """A command whose positional arguments may stand anywhere between its options."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:  # the method below calls this one, for options and then for the rest
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def main(words: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m drafter", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Command)
    for name in COMMANDS:
        module = import_module(f"drafter.commands.{name}")
        about = (module.__doc__ or "").strip()
        command = commands.add_parser(name, help=about.splitlines()[0], description=about)
        module.arguments(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(words)
    with one_line_errors():
        parsed.run(parsed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
