"""What is asked, what was answered, and what a reward is."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PARTS = 8  # one source of so many tests, another validates


@dataclass(frozen=True)
class Task:
    """A prompt whose answer can be scored.

    Args:
        source: what training and evaluation are split by: a file, a problem.
        reference: the right number, or a text to compare with.
        entry: name of the function that is asked for.
        signature: code that stands before the answer where that is a function's body alone.
        setup, check: programs around the answer's code, which is right if all three end well.
    """

    source: str
    prompt: str
    reference: str = ""
    entry: str = ""
    signature: str = ""
    setup: str = ""
    check: str = ""

    @property
    def part(self) -> str:
        """`training`, `validation` (chooses a checkpoint) or `test`: by a hash of its source alone."""
        number = hashlib.sha256(self.source.encode()).digest()[0] % PARTS
        return {0: "test", PARTS // 2: "validation"}.get(number, "training")


@dataclass(frozen=True)
class Answered:
    """A task with one answer to it, as text and as tokens behind those of the prompt."""

    task: Task
    text: str
    prompt_ids: Sequence[int] = ()
    ids: Sequence[int] = ()


Reward = Callable[[Sequence[Answered]], list[float]]
"""A number for each answer; more is better, the scale is the reward's own."""


def require_field(tasks: Sequence[Task], field: str, reward: str) -> None:
    """Raise a ValueError unless every task has what a reward compares with."""
    for task in tasks:
        if not getattr(task, field):
            raise ValueError(f"reward={reward!r}: task {task.source!r} has no `{field}`; choose tasks that have one")
