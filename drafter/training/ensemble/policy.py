"""The objective of a dynamic ensemble as pure functions of what a roll-out keeps of each token: no vocabulary needed.

nu(x) = w p(x) + (1 - w) q(x) and TV(q, nu) = w TV(p, q), so that p(x), q(x), TV(p, q) and the weight w say it all.
p verifier, q drafter. N tokens of all roll-outs stand in a row, `trajectory` [N] says whose they are.
"""

import torch
from torch import Tensor

LEAST = 1e-30  # a token that neither model gives any mass can only come of rounding


def mixture_log_prob(weight: Tensor, verifier: Tensor, draft: Tensor) -> Tensor:
    """log nu(x) of emitted tokens, from the weight and both probabilities of each, all [N]."""
    return (weight * verifier + (1 - weight) * draft).clamp(min=LEAST).log()


def advantages(rewards: Tensor, limit: float = 5.0) -> Tensor:
    """Rewards of a batch [R], less their mean, over their standard deviation, clipped to [-limit, limit].

    Zero where all rewards are the same: nothing is learnt from such a batch.

    Source: global batch normalisation of REINFORCE++ (arXiv:2501.03262).
    """
    centred = rewards - rewards.mean()
    spread = centred.square().mean().sqrt()
    if spread <= 1e-8 * rewards.abs().max():  # equal but for rounding
        return torch.zeros_like(rewards)
    return (centred / spread).clamp(-limit, limit)


def policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) of each token, r = nu(x) / nu_old(x), all [N].

    At the first update r = 1, and the gradient is that of REINFORCE, -A grad log nu(x).

    Source: arXiv:1707.06347, eq. 7, as REINFORCE++ uses it.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def acceptance(weight: Tensor, variation: Tensor) -> Tensor:
    """The chance that a draft is kept, 1 - TV(q, nu) = 1 - w TV(p, q), [N]."""
    return 1 - weight * variation


def ensemble_loss(
    weight: Tensor,
    old_weight: Tensor,
    verifier: Tensor,
    draft: Tensor,
    variation: Tensor,
    trajectory: Tensor,
    rewards: Tensor,
    *,
    acceptance_weight: float,
    clip: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is minimised, and its parts: the mean over roll-outs of sums over their tokens.

    mean_r sum_t [ policy_loss_t - acceptance_weight (1 - w_t TV_t) ], an estimate of
    -E[ A(x_1:T) + acceptance_weight sum_t (1 - TV(q_t, nu_t)) ], x ~ nu. Minus: more acceptance is less loss, and where
    the models disagree the second part lowers w. That the weights also decide which contexts come up is left to the
    first part, as in the source. That they decide where blocks begin, too, and so which tokens are the verifier's own
    behind a whole block, is left to neither; in the source, without such tokens, nothing hangs on it.

    A batch whose rewards are all the same teaches nothing, of neither part: measured in a deviation of zero acceptance
    is worth nothing either, and an optimiser that knows no scale would go all the way to the drafter on it, from where
    no reward leads back.

    Args:
        weight: w of each token by the head that is trained, [N].
        old_weight: w when the roll-out was made, [N].
        verifier, draft: p(x) and q(x) of the emitted tokens, [N].
        variation: TV(p, q), [N].
        trajectory: which roll-out each token is of, [N] long.
        rewards: one per roll-out, [R].
        acceptance_weight: lambda of the source, in units of the reward's standard deviation.
        clip: of the ratio.
    Source: arXiv:2604.07622, the objective of section 4 (its released code has the second part's sign reversed).
    """
    gain = advantages(rewards)[trajectory]  # [N]
    log_prob = mixture_log_prob(weight, verifier, draft)  # [N]
    old = mixture_log_prob(old_weight, verifier, draft)  # [N]
    policy = policy_loss(log_prob, old, gain, clip).sum() / len(rewards)
    kept = acceptance(weight, variation).sum() / len(rewards)
    return policy - acceptance_weight * (gain.any() * kept), {"policy": policy, "acceptance": kept}


def budget_loss(weight: Tensor, variation: Tensor, budget: float) -> Tensor:
    """Mean square of (1 - w) TV(p, q) - min(budget, TV(p, q)), over [N]: zero for the rule `variation_budget`.

    Where the models agree any weight is right, and none is asked for.
    """
    return ((1 - weight) * variation - variation.clamp(max=budget)).square().mean()
