"""Cross-entropy of every slot, weighted by its position in the block."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores, Loss, Term, decay_where, slot_decay

REDUCTIONS = ("mean", "block_sum")


@dataclass
class DecayedCE(Loss):
    """Cross-entropy, each slot k weighted by exp(-(k-1) / decay_slots): early slots decide what is accepted.

    Args:
        weight: coefficient in the objective; null or 0 turns it off.
        warmup_steps: the coefficient rises linearly from 0 over these steps.
        decay_slots: e-folding length of the slot weight, in slots; null for uniform cross-entropy.
        reduction: `mean`, the sum of w * nll over slots / the sum of w; or `block_sum`, the sum of w * nll over the
            slots of a block, averaged over the blocks with a valid slot (eq. 9 as printed). With full blocks the second
            is the first times the sum of w over a block, 8.16 for 15 slots and decay 10.
    Returns:
        Term: `mean`: both fields [B, A, G]; `block_sum`: both fields [B, A].
    Raises:
        ValueError: decay_slots not positive, reduction unknown.
    Source: arXiv:2606.11552, eqs. 7 to 9.
    """

    name: ClassVar[str] = "decayed_ce"

    weight: float | None = 1.0
    decay_slots: float | None = 10.0
    reduction: str = "mean"

    def __post_init__(self):
        super().__post_init__()
        self.check_decay(self.decay_slots)
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"losses.decayed_ce.reduction={self.reduction}: must be one of {', '.join(REDUCTIONS)}")

    def __call__(self, scores: BlockScores) -> Term:
        weights = decay_where(scores.valid, self.decay_slots, scores.nll.dtype)  # [B, A, G]
        if self.reduction == "mean":
            return Term(scores.nll, weights)
        per_block = (scores.nll * weights).sum(-1)  # [B, A]
        return Term(per_block, scores.valid.any(-1).to(per_block.dtype))

    def known_weight(self, slots: Tensor) -> Tensor:
        if self.reduction == "mean":
            return (slots * slot_decay(len(slots), self.decay_slots, slots.device, slots.dtype)).sum()
        return slots[0]
