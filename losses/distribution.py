"""Losses that compare the drafter's law with the verifier's, slot by slot; `losses.divergences` has the mathematics."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores, Loss, Term, decay_where, slot_decay
from losses.chain_reward import chain

VARIANTS = ("alpha", "hybrid")


@dataclass
class Distance(Loss):
    """A distance of the two laws at every valid slot, weighted by position: the field of BlockScores of its name.

    Args:
        weight, warmup_steps: as in `Loss`.
        decay_slots: e-folding length of the slot weight, in slots; null for uniform.
    Returns:
        Term, both fields [B, A, G].
    Raises:
        ValueError: decay_slots not positive; scores without the fields that the loss needs.
    Source: arXiv:2310.08461 compares these divergences for speculative decoding.
    """

    decay_slots: float | None = None

    def __post_init__(self):
        super().__post_init__()
        self.check_decay(self.decay_slots)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.name})

    def __call__(self, scores: BlockScores) -> Term:
        values = self.values(scores)  # [B, A, G]
        return Term(values, decay_where(scores.valid, self.decay_slots, values.dtype))

    def known_weight(self, slots: Tensor) -> Tensor:
        return (slots * slot_decay(len(slots), self.decay_slots, slots.device, slots.dtype)).sum()

    def values(self, scores: BlockScores) -> Tensor:
        """[B, A, G] the distance at each slot."""
        return scores.need(self.name, self.name)


@dataclass
class ForwardKL(Distance):
    """KL(verifier || drafter) = sum_v p log(p / q) at every slot: distillation that covers the verifier's law."""

    name: ClassVar[str] = "forward_kl"


@dataclass
class ReverseKL(Distance):
    """KL(drafter || verifier) = sum_v q log(q / p) at every slot: distillation that seeks a mode of it."""

    name: ClassVar[str] = "reverse_kl"


@dataclass
class JSD(Distance):
    """Jensen-Shannon divergence of the two laws at every slot, in [0, log 2]: between both, and bounded."""

    name: ClassVar[str] = "jsd"


@dataclass
class TotalVariation(Distance):
    """Total variation, 1 - sum_v min(p, q), at every slot: the rate at which speculative sampling rejects.

    Source: arXiv:2310.08461, sec. on total variation; half the L1 distance of arXiv:2607.05147.
    """

    name: ClassVar[str] = "total_variation"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"log_acceptance"})

    def values(self, scores: BlockScores) -> Tensor:
        return 1 - scores.need("log_acceptance", self.name).exp()


@dataclass
class LK(Distance):
    """-log of the acceptance rate a = sum_v min(p, q) at every slot, or KL that gives way to 1 - a as a grows.

    Args:
        variant: `alpha`, -log a: its gradient is total variation's divided by a, so slots that fail pull harder; or
            `hybrid`, c * KL(verifier || drafter) + (1 - c) * (1 - a) with c = exp(-eta * a), which gets no gradient.
        eta: how fast `hybrid` leaves KL; the paper takes 3 for one-layer autoregressive heads, 10 for parallel ones.
        Others as in `Distance`.
    Raises:
        ValueError: variant unknown, eta negative.
    Source: arXiv:2602.23881.
    """

    name: ClassVar[str] = "lk"

    variant: str = "alpha"
    eta: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"losses.lk.variant={self.variant}: must be one of {', '.join(VARIANTS)}")
        if not self.eta >= 0:
            raise ValueError(f"losses.lk.eta={self.eta}: must be >= 0; 0 for KL alone")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"log_acceptance"} if self.variant == "alpha" else {"log_acceptance", "forward_kl"})

    def values(self, scores: BlockScores) -> Tensor:
        log_acceptance = scores.need("log_acceptance", self.name)  # [B, A, G]
        if self.variant == "alpha":
            return -log_acceptance
        acceptance = log_acceptance.exp()  # [B, A, G]
        share = (-self.eta * acceptance.detach()).exp()  # [B, A, G]
        return share * scores.need("forward_kl", self.name) + (1 - share) * (1 - acceptance)


@dataclass
class OverlapChain(Loss):
    """The chain reward with the acceptance rate a_j = sum_v min(p, q) of each slot for the label's probability.

    R = 1/G * sum_k prod_{j<=k} a_j along the row's tokens: in [0, 1], maximised; what sampling at the temperature of
    the scores would accept, where the chain reward is what matching the label would.

    Args:
        weight: coefficient in the objective; null or 0 turns it off.
        warmup_steps: the coefficient rises linearly from 0 over these steps.
    Returns:
        Term, both fields [B, A]: -R, and 1 for blocks with a valid slot. Logged as +R. An invalid slot ends the prefix.
    Raises:
        ValueError: scores without log_acceptance.
    """

    name: ClassVar[str] = "overlap_chain"
    is_reward: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"log_acceptance"})

    def __call__(self, scores: BlockScores) -> Term:
        return chain(scores.need("log_acceptance", self.name), scores.valid)

    def known_weight(self, slots: Tensor) -> Tensor:
        return slots[0]
