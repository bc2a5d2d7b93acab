"""The commands of `python -m drafter`, one file each: a docstring for its help, `arguments(parser)` and `run(parsed)`.

Their modules import nothing heavy at the top, so that `--help` and a wrong recipe answer at once.
"""

COMMANDS = ("regenerate", "export", "check", "ablate", "evaluate", "generate", "benchmark")
