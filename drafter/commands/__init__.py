"""The commands of `drafter`, one file each: a docstring for its help, `arguments(parser)` and `run(parsed)`.

Their modules import nothing heavy at the top, so that `--help` and a wrong recipe answer at once.
"""

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
