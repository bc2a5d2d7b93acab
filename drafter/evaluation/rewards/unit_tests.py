"""1 if the answer's code passes its tests, run in the sandbox."""

import re
from collections.abc import Sequence

from drafter.evaluation.rewards.base import Answered, Task, require_field
from drafter.evaluation.rewards.sandbox import Limits, require_sandbox, run_all

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def code_of(task: Task, text: str) -> str:
    """The code in an answer: its first fenced block, or all of it; behind the signature where it does not define the
    function itself."""
    fenced = FENCED.search(text)
    code = fenced.group(1) if fenced else text
    if re.search(rf"^(?:async )?def {re.escape(task.entry)}\b", code, re.MULTILINE):
        return code
    body = code.strip("\n")
    if not body.startswith((" ", "\t")):
        body = "\n".join(f"    {line}" if line else line for line in body.split("\n"))
    return f"{task.signature.rstrip()}\n{body}\n"


def program_of(task: Task, code: str) -> str:
    """What is run to judge code."""
    return f"{task.setup}\n{code}\n{task.check}"


class UnitTests:
    """Runs each answer's code with its task's check.

    Raises:
        ValueError: programs can't be confined on this machine.
    """

    def __init__(self, limits: Limits | None = None):
        require_sandbox()
        self.limits = limits

    def __call__(self, answers: Sequence[Answered]) -> list[float]:
        """1 where the check ended well, else 0: for what did not parse, took too long or did what is forbidden, too."""
        require_field([one.task for one in answers], "check", "unit_tests")
        programs = [program_of(one.task, code_of(one.task, one.text)) for one in answers]
        return [float(found.passed) for found in run_all(programs, self.limits)]
