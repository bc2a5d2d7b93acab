"""What losses on the distance of the drafter's law from the verifier's have in common."""

from dataclasses import dataclass

from torch import Tensor

from losses.base import BlockScores, Loss, Term, decay_where


@dataclass
class Distance(Loss):
    """A distance of the two laws at every valid slot, weighted by position.

    Args:
        weight, warmup_steps: as in `Loss`.
        decay_slots: e-folding length of the slot weight, in slots; null for uniform.
    Returns:
        Term, both fields [B, A, G].
    Raises:
        ValueError: decay_slots not positive; scores without the fields that the loss needs.
    """

    decay_slots: float | None = None

    def __post_init__(self):
        super().__post_init__()
        self.check_decay(self.decay_slots)

    def __call__(self, scores: BlockScores) -> Term:
        values = self.values(scores)  # [B, A, G]
        return Term(values, decay_where(scores.valid, self.decay_slots, values.dtype))

    def values(self, scores: BlockScores) -> Tensor:
        raise NotImplementedError
