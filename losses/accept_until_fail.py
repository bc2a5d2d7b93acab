"""Cross-entropy up to where acceptance ends."""

from dataclasses import dataclass
from typing import ClassVar

from losses.base import BlockScores, Loss, Term, decay_where


@dataclass
class AcceptUntilFail(Loss):
    """Cross-entropy of slots 1..k, k the first slot whose argmax is wrong, itself included; of all where none is.

    In place of `decayed_ce`: set that one's weight to 0.

    Args:
        weight: coefficient in the objective; null or 0 turns it off.
        warmup_steps: the coefficient rises linearly from 0 over these steps.
        decay_slots: e-folding length of the slot weight, in slots; null for uniform, as in the source.
    Returns:
        Term, both fields [B, A, G].
    Raises:
        ValueError: decay_slots is not positive.
    Source: arXiv:2607.01893. No gradient flows through the choice of the slots.
    """

    name: ClassVar[str] = "accept_until_fail"

    decay_slots: float | None = None

    def __post_init__(self):
        super().__post_init__()
        self.check_decay(self.decay_slots)

    def __call__(self, scores: BlockScores) -> Term:
        miss = (scores.valid & ~scores.hit).long()  # [B, A, G]
        reached = miss.cumsum(-1) == miss  # [B, A, G] no miss before the slot
        return Term(scores.nll, decay_where(reached & scores.valid, self.decay_slots, scores.nll.dtype))
