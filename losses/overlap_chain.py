"""Expected share of a block that speculative sampling accepts, as a differentiable reward."""

from dataclasses import dataclass
from typing import ClassVar

from losses.base import BlockScores, Loss, Term
from losses.chain_reward import chain


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
