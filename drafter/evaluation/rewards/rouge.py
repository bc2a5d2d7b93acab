"""How much of a reference's word pairs an answer has, and how much else."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from drafter.evaluation.rewards.base import Answered, require_field


def pairs(text: str) -> Counter[tuple[str, str]]:
    """Neighbouring words with their counts: runs of letters and digits, in lower case, not stemmed."""
    return Counter(pairwise(re.findall(r"[^\W_]+", text.lower())))


def rouge_2_of(text: str, reference: str) -> float:
    """F1 of neighbouring words, 2 m / (a + b): m in both, counted at most as often as in each; a, b in either."""
    ours, theirs = pairs(text), pairs(reference)
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 0.0


def rouge_2(answers: Sequence[Answered]) -> list[float]:
    """ROUGE-2 F1 of each answer against its reference, in [0, 1].

    Source: Lin, ROUGE: a package for automatic evaluation of summaries (2004).
    """
    require_field([one.task for one in answers], "reference", "rouge_2")
    return [rouge_2_of(one.text, one.task.reference) for one in answers]
