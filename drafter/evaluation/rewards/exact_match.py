"""1 if the answer's last number is the right one."""

import re
from collections.abc import Sequence

from drafter.evaluation.rewards.base import Answered, require_field

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> float | None:
    """The last number of a text, thousands separated by commas or not; None without one."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def exact_match(answers: Sequence[Answered]) -> list[float]:
    """1 where the last number of the answer is that of the reference, else 0: the convention of GSM8K.

    Source: arXiv:2110.14168.
    """
    require_field([one.task for one in answers], "reference", "exact_match")
    return [float(last_number(one.text) == last_number(one.task.reference)) for one in answers]
