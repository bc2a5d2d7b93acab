"""Likelihood of being accepted by speculative sampling."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores
from losses.distance import Distance

VARIANTS = ("alpha", "hybrid")


@dataclass
class LK(Distance):
    """-log of the acceptance rate a = sum_v min(p, q) at every slot, or KL that gives way to 1 - a as a grows.

    Args:
        variant: `alpha`, -log a: its gradient is total variation's divided by a, so slots that fail pull harder; or
            `hybrid`, c * KL(verifier || drafter) + (1 - c) * (1 - a) with c = exp(-eta * a), which gets no gradient.
        eta: how fast `hybrid` leaves KL; the paper takes 3 for one-layer autoregressive heads, 10 for parallel ones.
        Others as in `Distance`.
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
