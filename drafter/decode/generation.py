"""What decoding returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Generation:
    """What one prompt became.

    Attributes:
        token_ids: the answer, its stop token included; a stop string ends with the token in which it completes.
        text: the answer without its stop token or stop string; empty where nobody asked for text.
        accepted: draft tokens kept in each cycle, cut at the end of the answer.
        drafted: tokens proposed in each cycle: the draft length, or the nodes of a tree.
        emitted: tokens that each cycle added to the answer; the prefill's token is in none of them.
        stop: `stop` (a token or a string), `length`, or the reason why the row could not run.
        verifier_calls: verifier passes over this row, the prefill counted once.
        seconds: from the row's prefill to its last token.
    """

    token_ids: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    emitted: list[int] = field(default_factory=list)
    text: str = ""
    stop: str = ""
    verifier_calls: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens emitted by cycles over cycles; NaN without a cycle."""
        return sum(self.emitted) / len(self.emitted) if self.emitted else float("nan")


def tokens_per_cycle(generations: Sequence[Generation]) -> float:
    """Tokens emitted by cycles over cycles, summed over prompts."""
    cycles = sum(len(one.emitted) for one in generations)
    return sum(sum(one.emitted) for one in generations) / cycles if cycles else float("nan")
