"""Distillation that covers the verifier's law."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores
from losses.distance import Distance


@dataclass
class ForwardKL(Distance):
    """KL(verifier || drafter) = sum_v p log(p / q) at every slot; arguments as in `Distance`.

    Source: distillation as such; arXiv:2310.08461 compares divergences for speculative decoding.
    """

    name: ClassVar[str] = "forward_kl"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"forward_kl"})

    def values(self, scores: BlockScores) -> Tensor:
        return scores.need("forward_kl", self.name)
