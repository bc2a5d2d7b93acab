"""What passes take and what drafts are worth: how wide a verify pass should be."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Seconds of one pass: a draft, and a verifier pass over 1..K tokens of each row (`verify[w - 1]` over w)."""

    draft: float
    verify: list[float]

    def ideal(self, tokens: float, draft_length: int) -> float:
        """Speed-up without any host work: tokens per cycle · t(1) / (t(1 + draft_length) + t_draft)."""
        return tokens * self.verify[0] / (self.verify[draft_length] + self.draft)

    def best(self, tokens: Sequence[float]) -> int:
        """The number of drafts with the most tokens per second; the fewest where several are equal.

        Args:
            tokens: expected ones of a cycle with 0, 1, ... drafts.
        """
        return max(range(len(tokens)), key=lambda drafts: tokens[drafts] / (self.draft + self.verify[drafts]))


class Survival:
    """The chance that a draft is kept, given that those before it are, learnt while decoding.

    The drafter's own confidence, the highest probability of a slot's law, is taken as it is at first; each tenth of its
    range then counts how often drafts of that confidence were kept, the first guess weighing as much as PRIOR of them.
    A confidence is a function of the draft laws and never of the tokens drawn from them, so that a length chosen by it
    leaves every lossless rule lossless.
    """

    TENTHS, PRIOR = 10, 8.0

    def __init__(self) -> None:
        self.reached, self.kept = [0] * self.TENTHS, [0] * self.TENTHS

    def chance(self, confidence: float) -> float:
        """The chance of one draft."""
        tenth = self._tenth(confidence)
        return (self.kept[tenth] + self.PRIOR * confidence) / (self.reached[tenth] + self.PRIOR)

    def expected(self, confidences: Sequence[float], left: int) -> list[float]:
        """Tokens that a cycle with 0, 1, ... drafts is expected to emit, of which `left` are wanted.

        1 + the sum over slots k of the product of the chances up to k.
        """
        tokens, all_kept = [1.0], 1.0
        for slot, confidence in enumerate(confidences, 1):
            all_kept *= self.chance(confidence)
            tokens.append(tokens[-1] + (all_kept if slot < left else 0.0))
        return tokens

    def learn(self, confidences: Sequence[float], accepted: int, drafts: int) -> None:
        """What became of a cycle's first `drafts` slots."""
        for slot, confidence in enumerate(confidences[: min(accepted + 1, drafts)]):
            tenth = self._tenth(confidence)
            self.reached[tenth] += 1
            self.kept[tenth] += slot < accepted

    def _tenth(self, confidence: float) -> int:
        return min(int(confidence * self.TENTHS), self.TENTHS - 1)
