"""Distillation that seeks a mode of the verifier's law."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores
from losses.distance import Distance


@dataclass
class ReverseKL(Distance):
    """KL(drafter || verifier) = sum_v q log(q / p) at every slot; arguments as in `Distance`.

    Source: arXiv:2310.08461 compares divergences for speculative decoding.
    """

    name: ClassVar[str] = "reverse_kl"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reverse_kl"})

    def values(self, scores: BlockScores) -> Tensor:
        return scores.need("reverse_kl", self.name)
