"""The rate at which speculative sampling rejects."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores
from losses.distance import Distance


@dataclass
class TotalVariation(Distance):
    """Total variation, 1 - sum_v min(p, q), at every slot: 1 - acceptance rate; arguments as in `Distance`.

    Source: arXiv:2310.08461, sec. on total variation; half the L1 distance of arXiv:2607.05147.
    """

    name: ClassVar[str] = "total_variation"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"log_acceptance"})

    def values(self, scores: BlockScores) -> Tensor:
        return 1 - scores.need("log_acceptance", self.name).exp()
