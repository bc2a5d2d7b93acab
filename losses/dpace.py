"""Cross-entropy weighted by what each slot is worth to the expected accepted length."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores, Loss, Term, valid_prefix


@dataclass
class DPace(Loss):
    """Cross-entropy of slot j times sum_{m>=j} prod_{i<=m} s_i, s = (1 - smoothing) * p + smoothing, p the label's
    probability: how much of the expected accepted length hangs on the slot, held fixed (no gradient).

    Without smoothing the gradient is that of G times the chain reward; smoothing keeps deep slots alive. In place of
    `decayed_ce`: set that one's weight to 0.

    Args:
        weight: coefficient in the objective; null or 0 turns it off.
        warmup_steps: the coefficient rises linearly from 0 over these steps.
        smoothing: in 0..1; 1 gives slot j of G the weight G - j + 1 whatever its probability.
    Returns:
        Term, both fields [B, A, G]: the weighted nats, and 1 for valid slots. An invalid slot ends the prefix.
    Raises:
        ValueError: smoothing outside 0..1.
    Source: arXiv:2605.18810, eqs. 7 to 9; its reduction differs between code bases, here it is the mean over slots.
    """

    name: ClassVar[str] = "dpace"

    smoothing: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"losses.dpace.smoothing={self.smoothing}: must be in 0..1; 0 for none")

    def __call__(self, scores: BlockScores) -> Term:
        smoothed = (1 - self.smoothing) * (-scores.nll.detach()).exp() + self.smoothing  # [B, A, G]
        joint = smoothed.cumprod(-1) * valid_prefix(scores.valid)  # [B, A, G]
        worth = joint.flip(-1).cumsum(-1).flip(-1)  # [B, A, G] sum over slots m >= j
        return Term(worth * scores.nll, scores.valid.to(worth.dtype))

    def known_weight(self, slots: Tensor) -> Tensor:
        return slots.sum()
