"""python train.py RECIPE [key=value ...]: the same as `drafter train`."""

import sys

from drafter.__main__ import main as drafter


def main(words: list[str]) -> int:
    return drafter(["train", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
