"""What an answer is worth: pick. Each reward gives a number per answer.

`exact_match` and `rouge_2` compare with a reference, `unit_tests` runs the answer's code in a sandbox,
`log_likelihood` asks the verifier, for prompts that nobody has answered.
"""

from collections.abc import Callable, Sequence

from drafter.evaluation.rewards.base import Answered, Reward, Task, require_field
from drafter.evaluation.rewards.exact_match import exact_match
from drafter.evaluation.rewards.log_likelihood import LogLikelihood
from drafter.evaluation.rewards.rouge import rouge_2
from drafter.evaluation.rewards.sandbox import Limits
from drafter.evaluation.rewards.unit_tests import UnitTests
from drafter.verifier import Verifier

REWARDS: dict[str, Callable[[Verifier, Limits | None], Reward]] = {
    "exact_match": lambda verifier, limits: exact_match,
    "rouge_2": lambda verifier, limits: rouge_2,
    "unit_tests": lambda verifier, limits: UnitTests(limits),
    "log_likelihood": lambda verifier, limits: LogLikelihood(verifier),
}
"""What makes each, from the verifier and the limits of programs."""

NEEDS = {"exact_match": "reference", "rouge_2": "reference", "unit_tests": "check"}
"""The field of a task that a reward compares with, where it does."""


def make_reward(name: str, verifier: Verifier, limits: Limits | None = None) -> Reward:
    """The reward of that name.

    Args:
        verifier: for `log_likelihood`.
        limits: of programs, for `unit_tests`.
    Raises:
        ValueError: there is no such reward, or programs can't be confined here.
    """
    if name not in REWARDS:
        raise ValueError(f"reward={name!r}: no such reward; choose one of {', '.join(REWARDS)}")
    return REWARDS[name](verifier, limits)


def check_tasks(name: str, tasks: Sequence[Task]) -> None:
    """Before anything is decoded.

    Raises:
        ValueError: a task lacks what the reward of that name compares with.
    """
    if name in NEEDS:
        require_field(tasks, NEEDS[name], name)


__all__ = ["NEEDS", "REWARDS", "Answered", "Limits", "Reward", "Task", "check_tasks", "make_reward"]
