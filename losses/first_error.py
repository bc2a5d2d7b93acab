"""Cross-entropy at the slot that ends acceptance."""

from dataclasses import dataclass
from typing import ClassVar

from losses.base import BlockScores, Loss, Term, decay_where


@dataclass
class FirstError(Loss):
    """Cross-entropy at the first wrong slot of each block, the slot that ends acceptance.

    Args:
        weight: coefficient in the objective (alpha_f in the paper); null or 0 turns it off. The default is the paper's
            0.3, read as beside `decayed_ce.reduction=mean`; see `ChainReward`.
        warmup_steps: the coefficient rises linearly from 0 over these steps.
        decay_slots: e-folding length of the slot weight, in slots; null for uniform.
    Returns:
        Term, both fields [B, A, G]: nats, and a weight non-zero in at most one slot per block. Blocks without an error
        carry no weight, so they do not dilute the mean.
    Raises:
        ValueError: decay_slots is not positive.
    Source: arXiv:2606.11552, eq. 10. No gradient flows through the choice of the slot.
    """

    name: ClassVar[str] = "first_error"

    weight: float | None = 0.3
    decay_slots: float | None = 10.0

    def __post_init__(self):
        super().__post_init__()
        self.check_decay(self.decay_slots)

    def __call__(self, scores: BlockScores) -> Term:
        miss = scores.valid & ~scores.hit  # [B, A, G]
        first = miss & (miss.cumsum(-1) == 1)  # [B, A, G] at most one True per block
        return Term(scores.nll, decay_where(first, self.decay_slots, scores.nll.dtype))
