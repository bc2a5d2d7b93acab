"""Lossy by a stated amount: a mixture that stays within a total variation of the verifier."""

from functools import partial

import torch
from torch import Tensor

from drafter.verification.base import (
    Rule,
    Verification,
    draft_lengths,
    per_slot,
    require_draft_probs,
    require_fraction,
    total_variation,
)
from drafter.verification.ensemble import accept_mixture


def budget_weight(variation: Tensor, budget: float) -> Tensor:
    """w = 1 - min(1, budget / variation): the smallest weight on the verifier that keeps within the budget."""
    return torch.where(variation > budget, 1 - budget / variation, 0.0)


def variation_budget(budget: float, *, greedy: bool = False) -> Rule:
    """Make the rule that accepts all that a distance of `budget` to the verifier at each token allows.

    p verifier, q drafter, D = budget: the ensemble w p + (1 - w) q with w = 1 - min(1, D / TV(p, q)) at each slot.
    Lossy. Law at a drafted slot: that mixture, at total variation min(D, TV(p, q)) <= D from the verifier; the bonus
    token is the verifier's. Sequences are within the expected sum over their tokens. The chance to reject is
    max(0, TV(p, q) - D), the least that any rule within D has. Budget 0 is speculative_sampling, budget 1 emits every
    draft.

    Args:
        budget: D, in [0, 1].
        greedy: as in static_ensemble, by the argmax of that mixture.
    Raises:
        ValueError: budget is not in [0, 1].
    Source: the weight of arXiv:2604.07622, proposition 1, solved for the distance; optimal by arXiv:2411.00841,
    theorem 5.
    """
    require_fraction("variation_budget.budget", budget)
    return partial(_budgeted, budget=budget, greedy=greedy)


def _budgeted(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    budget: float,
    greedy: bool = False,
    draft_length: Tensor | None = None,
) -> Verification:
    draft_probs = require_draft_probs("variation_budget", draft_probs, verifier_probs)
    draft_lengths("variation_budget", draft_ids, draft_probs, verifier_probs, draft_length)
    variation = per_slot(total_variation, verifier_probs[:, :-1], draft_probs)  # [B, G]
    weight = budget_weight(variation, budget)  # [B, G]
    return accept_mixture(
        "variation_budget", draft_ids, draft_probs, verifier_probs, generator, weight, draft_length, greedy=greedy
    )
