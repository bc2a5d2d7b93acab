"""Exact speculative sampling that judges the whole block."""

import torch
from torch import Tensor

from drafter.verification.base import (
    Verification,
    accept_probability,
    draft_law_at,
    draft_lengths,
    inverse_cdf,
    law_at,
    prob_at,
    require_draft_probs,
    residual,
    uniforms,
)


def prefix_weights(verifier: Tensor, draft: Tensor) -> Tensor:
    """P_0 = 1, P_i = min(1, P_(i-1) p_i(x_i) / q_i(x_i)): probabilities of the drafts, two [B, G] -> [B, G + 1]."""
    weights = torch.ones(verifier.shape[0], verifier.shape[1] + 1, dtype=torch.float64, device=verifier.device)
    for slot in range(verifier.shape[1]):
        weights[:, slot + 1] = accept_probability(weights[:, slot] * verifier[:, slot].double(), draft[:, slot])
    return weights


def prefix_accept_probability(weight: Tensor, verifier: Tensor, draft: Tensor) -> Tensor:
    """h_i = S / (S + 1 - P_i), S = sum_x max(0, P_i p_(i+1)(x) - q_(i+1)(x)); 1 where the denominator is 0.

    Args:
        weight: P_i, [B].
        verifier: p_(i+1), the law of the token after the prefix, [B, V].
        draft: q_(i+1), [B, V]; zero after the last draft, which makes h = P.
    """
    mass = (weight[:, None] * verifier.double() - draft.double()).clamp(min=0).sum(-1)  # [B]
    denominator = mass + (1 - weight)
    return torch.where(denominator > 0, mass / denominator, 1.0)


def block_verification(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    draft_length: Tensor | None = None,
) -> Verification:
    """Accept the longest prefix that passes its own test, whether or not shorter ones pass theirs, then correct.

    p verifier, q drafter, x drafts. P_0 = 1, P_i = min(1, P_(i-1) p_i(x_i) / q_i(x_i));
    S_i = sum_x max(0, P_i p_(i+1)(x) - q_(i+1)(x)); h_i = S_i / (S_i + 1 - P_i) before the last draft, h_G = P_G.
    With independent uniforms u_i, accepted is the largest i with u_i < h_i, or 0; the next token is drawn from
    norm(max(0, P_i p_(i+1) - q_(i+1))) there, after full acceptance from the bonus law.
    Law: the verifier's, provided q_i is the law that x_i was drawn from. In expectation no rule that sees the same
    laws and is lossless accepts more; speculative_sampling never does.

    Args:
        draft_ids: proposed tokens, [B, G].
        draft_probs: the laws they were drawn from, [B, G, V]; one-hot for greedy drafts.
        verifier_probs: the verifier's laws, [B, G + 1, V].
        generator: gives the uniforms.
        draft_length: slots drafted in each row, [B]; None for G.
    Raises:
        ValueError: shapes do not belong together, or the drafts have no law.
    Source: arXiv:2403.10444.
    """
    draft_probs = require_draft_probs("block_verification", draft_probs, verifier_probs)
    length = draft_lengths("block_verification", draft_ids, draft_probs, verifier_probs, draft_length)
    batch, slots = draft_ids.shape
    noise = uniforms((batch, slots + 1), generator, draft_ids.device)  # [B, G + 1] last: the next token's
    weights = prefix_weights(prob_at(verifier_probs, draft_ids), prob_at(draft_probs, draft_ids))  # [B, G + 1]

    accepted = torch.zeros_like(length)  # [B]
    for prefix in range(1, slots + 1):
        draft_law = draft_law_at(draft_probs, torch.full_like(length, prefix), length)  # [B, V]
        accept = prefix_accept_probability(weights[:, prefix], verifier_probs[:, prefix], draft_law)  # [B]
        accepted = torch.where((noise[:, prefix - 1] < accept) & (prefix <= length), prefix, accepted)

    weight = weights.gather(1, accepted[:, None])  # [B, 1]
    law = residual(weight * law_at(verifier_probs, accepted), draft_law_at(draft_probs, accepted, length))  # [B, V]
    return Verification(accepted, inverse_cdf(law, noise[:, -1]))
