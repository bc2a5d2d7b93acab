"""python -m drafter COMMAND: what one does with a drafter besides training it."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show users messages, not tracebacks: a ValueError ends the program with its one line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(
            f"error: {error.strerror or error}: {error.filename or 'no file named'}; free space or choose another path"
        )


def regenerate(arguments: argparse.Namespace) -> None:
    """Prompts → the verifier's answers, into the recipe's data.answers."""
    from tqdm import tqdm

    from drafter.config import load
    from drafter.regenerate import regenerate_recipe

    config = load(arguments.recipe, arguments.overrides)
    with tqdm(desc="answers", unit="row") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        regenerate_recipe(config, Path(arguments.out or config.data.answers), show)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m drafter", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("regenerate", help="prompts -> verifier answers", description=regenerate.__doc__)
    command.add_argument("recipe")
    command.add_argument("overrides", nargs="*", help="key=value")
    command.add_argument("--out", help="write here instead of data.answers")
    command.set_defaults(run=regenerate)

    arguments = parser.parse_args(words)
    with one_line_errors():
        arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
