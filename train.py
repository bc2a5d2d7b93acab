"""python train.py RECIPE.yaml [key=value ...]: train, evaluate and export into runs/<name>/."""

import sys

from drafter.__main__ import one_line_errors
from drafter.config import load


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, "Recipes are in recipes/; every key of one can be overridden.", sep="\n")
        return 0 if arguments else 2
    with one_line_errors():
        config = load(arguments[0], arguments[1:])
        from drafter.machine.memory import keep_freed_memory
        from drafter.training.runs.alignment import train  # late: a wrong recipe should not wait for torch

        keep_freed_memory()
        train(config)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
