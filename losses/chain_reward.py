"""Expected share of a block that is accepted, as a differentiable reward."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.base import BlockScores, Loss, Term, valid_prefix


@dataclass
class ChainReward(Loss):
    """Sum over slots k of the joint probability of labels 1..k, divided by G: in [0, 1], maximised.

    R = 1/G * sum_k rho_k, rho_k = exp(sum_{j<=k} log p_j). An invalid slot ends the prefix: it and all behind it add 0,
    while G stays the divisor, so a block cut by the end of its answer counts in proportion.

    Args:
        weight: coefficient in the objective (alpha_c in the paper); null or 0 turns it off. The default is the paper's
            40; of which reduction, the paper does not say. Beside `decayed_ce.reduction=mean` 40 did better here than
            5, which is what it becomes if it was meant beside `block_sum` (docs/results/losses).
        warmup_steps: the coefficient rises linearly from 0 over these steps.
    Returns:
        Term, both fields [B, A]: -R, and 1 for blocks with a valid slot. Logged as +R.
    Source: arXiv:2606.11552, eq. 12. The gradient flows through every factor.
    """

    name: ClassVar[str] = "chain_reward"
    is_reward: ClassVar[bool] = True

    weight: float | None = 40.0

    def __call__(self, scores: BlockScores) -> Term:
        return chain(-scores.nll, scores.valid)

    def known_weight(self, slots: Tensor) -> Tensor:
        return slots[0]


def chain(log_accepted: Tensor, valid: Tensor) -> Term:
    """Minus the expected accepted share of each block, from the log-probability that each slot is accepted."""
    joint = log_accepted.cumsum(-1).exp()  # [B, A, G] rho_k
    reward = (joint * valid_prefix(valid)).sum(-1) / joint.shape[-1]  # [B, A]
    return Term(-reward, valid.any(-1).to(reward.dtype))
