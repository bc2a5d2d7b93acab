"""What an answer is worth: pick. Each reward gives a number per answer.

`exact_match` and `rouge_2` compare with a reference, `unit_tests` runs the answer's code in a sandbox,
`log_likelihood` asks the verifier, for prompts that nobody has answered.
"""

from drafter.evaluation.rewards.base import Answered, Reward, Task
from drafter.evaluation.rewards.exact_match import exact_match
from drafter.evaluation.rewards.log_likelihood import LogLikelihood
from drafter.evaluation.rewards.rouge import rouge_2
from drafter.evaluation.rewards.sandbox import Limits
from drafter.evaluation.rewards.unit_tests import UnitTests
from drafter.verifier import Verifier

REWARDS = ("exact_match", "rouge_2", "unit_tests", "log_likelihood")


def make_reward(name: str, verifier: Verifier, limits: Limits | None = None) -> Reward:
    """The reward of that name.

    Args:
        verifier: for `log_likelihood`.
        limits: of programs, for `unit_tests`.
    Raises:
        ValueError: there is no such reward, or programs can't be confined here.
    """
    if name == "unit_tests":
        return UnitTests(limits)
    if name == "log_likelihood":
        return LogLikelihood(verifier)
    known: dict[str, Reward] = {"exact_match": exact_match, "rouge_2": rouge_2}
    if name not in known:
        raise ValueError(f"reward={name!r}: no such reward; choose one of {', '.join(REWARDS)}")
    return known[name]


__all__ = ["REWARDS", "Answered", "Limits", "Reward", "Task", "make_reward"]
