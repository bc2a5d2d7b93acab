"""Distillation between covering and mode-seeking, bounded."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores
from losses.distance import Distance


@dataclass
class JSD(Distance):
    """Jensen-Shannon divergence of the two laws at every slot, in [0, log 2]; arguments as in `Distance`.

    Source: arXiv:2310.08461 compares divergences for speculative decoding.
    """

    name: ClassVar[str] = "jsd"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"jsd"})

    def values(self, scores: BlockScores) -> Tensor:
        return scores.need("jsd", self.name)
