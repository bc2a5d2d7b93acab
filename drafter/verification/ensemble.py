"""Lossy: speculative sampling of a mixture of the verifier's and the drafter's laws."""

from functools import partial

import torch
from torch import Tensor

from drafter.verification.base import (
    Rule,
    Verification,
    accept_matching,
    accept_probability,
    accept_tokenwise,
    draft_lengths,
    drafted,
    prob_at,
    require_draft_probs,
    require_fraction,
)


def static_ensemble(verifier_weight: float, *, greedy: bool = False) -> Rule:
    """Make the rule that samples nu = w p + (1 - w) q exactly, w one number.

    p verifier, q drafter, w = verifier_weight. Accept draft x with probability min(1, nu(x) / q(x)), which is
    min(1, 1 - w + w p(x) / q(x)); after a rejection draw from norm(max(0, nu - q)) = norm(max(0, p - q)).
    Lossy. Law at a drafted slot: nu, at total variation (1 - w) TV(p, q) from the verifier; the bonus token is the
    verifier's. The chance to accept is 1 - w TV(p, q). Weight 1 is speculative_sampling, weight 0 emits every draft.

    Args:
        verifier_weight: w, in [0, 1].
        greedy: accept draft x if x = argmax nu, correct by argmax nu, bonus argmax p: no randomness. Needs the laws as
            they are at temperature 1; the mixture of two one-hot laws is a coin.
    Raises:
        ValueError: verifier_weight is not in [0, 1].
    Source: arXiv:2604.07622, proposition 1 and lemma 1 (its released scripts put the weight on the drafter).
    """
    require_fraction("static_ensemble.verifier_weight", verifier_weight)
    return partial(_static, verifier_weight=verifier_weight, greedy=greedy)


def _static(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    verifier_weight: float,
    greedy: bool = False,
    draft_length: Tensor | None = None,
) -> Verification:
    weight = torch.full(draft_ids.shape, verifier_weight, dtype=torch.float64, device=draft_ids.device)  # [B, G]
    return accept_mixture(
        "static_ensemble", draft_ids, draft_probs, verifier_probs, generator, weight, draft_length, greedy=greedy
    )


def dynamic_ensemble(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    verifier_weight: Tensor,
    greedy: bool = False,
    draft_length: Tensor | None = None,
) -> Verification:
    """Sample nu_i = w_i p_i + (1 - w_i) q_i exactly, with a weight for each slot.

    p verifier, q drafter, w = verifier_weight; accept and correct as in static_ensemble. Lossy. Law at drafted slot i:
    nu_i, at total variation (1 - w_i) TV(p_i, q_i) from the verifier, provided that w_i does not depend on x_i or on
    later drafts; the bonus token is the verifier's. The chance to accept is 1 - w_i TV(p_i, q_i).

    Args:
        draft_ids: proposed tokens, [B, G].
        draft_probs: the laws they were drawn from, [B, G, V].
        verifier_probs: the verifier's laws, [B, G + 1, V].
        generator: gives the uniforms.
        verifier_weight: w_i, in [0, 1], [B, G].
        greedy: as in static_ensemble.
        draft_length: slots drafted in each row, [B]; None for G.
    Raises:
        ValueError: shapes do not belong together, the drafts have no law, or a weight is not in [0, 1].
    Source: arXiv:2604.07622, eq. 4 and algorithm 2 (without a bonus token there).
    """
    if verifier_weight.shape != draft_ids.shape:
        raise ValueError(
            f"dynamic_ensemble: verifier_weight has shape {list(verifier_weight.shape)}: must be [B, G], "
            f"here {list(draft_ids.shape)}"
        )
    if not bool(((verifier_weight >= 0) & (verifier_weight <= 1)).all()):
        raise ValueError("dynamic_ensemble: verifier_weight has values outside [0, 1]: apply a sigmoid to the scores")
    weight = verifier_weight.double()  # [B, G]
    return accept_mixture(
        "dynamic_ensemble", draft_ids, draft_probs, verifier_probs, generator, weight, draft_length, greedy=greedy
    )


def mixture(weight: Tensor, verifier: Tensor, draft: Tensor) -> Tensor:
    """weight * verifier + (1 - weight) * draft."""
    return weight * verifier + (1 - weight) * draft


def accept_mixture(
    rule: str,
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    weight: Tensor,
    draft_length: Tensor | None,
    *,
    greedy: bool = False,
) -> Verification:
    """The rule of all mixtures, weight [B, G] float64."""
    draft_probs = require_draft_probs(rule, draft_probs, verifier_probs)
    length = draft_lengths(rule, draft_ids, draft_probs, verifier_probs, draft_length)
    if greedy:
        own_ids = verifier_probs.argmax(-1)  # [B, G + 1]
        blend = mixture(weight[..., None].to(verifier_probs.dtype), verifier_probs[:, :-1], draft_probs)  # [B, G, V]
        own_ids[:, :-1] = torch.where(drafted(draft_ids, length), blend.argmax(-1), own_ids[:, :-1])
        return accept_matching(draft_ids, own_ids, length)
    verifier, draft = prob_at(verifier_probs, draft_ids), prob_at(draft_probs, draft_ids)  # [B, G]
    accept = accept_probability(mixture(weight, verifier, draft), draft)  # [B, G]
    return accept_tokenwise(accept, draft_ids, draft_probs, verifier_probs, generator, length)
