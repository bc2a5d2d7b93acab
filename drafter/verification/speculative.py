"""Exact speculative sampling, token by token."""

import torch
from torch import Tensor

from drafter.verification.base import (
    Verification,
    accept_probability,
    accept_tokenwise,
    draft_lengths,
    prob_at,
    require_draft_probs,
)


def speculative_sampling(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    draft_length: Tensor | None = None,
) -> Verification:
    """Accept draft x_i with probability min(1, p_i(x_i) / q_i(x_i)) up to the first failure, then correct.

    p verifier, q drafter. After a rejection at slot i the next token is drawn from norm(max(0, p_i - q_i)), after full
    acceptance from the bonus law. Law: the verifier's, provided q_i is the law that x_i was drawn from. The chance to
    accept slot i is sum_x min(p_i, q_i) = 1 - TV(p_i, q_i).

    Args:
        draft_ids: proposed tokens, [B, G].
        draft_probs: the laws they were drawn from, [B, G, V]; one-hot for greedy drafts.
        verifier_probs: the verifier's laws, [B, G + 1, V].
        generator: gives the uniforms.
        draft_length: slots drafted in each row, [B]; None for G.
    Raises:
        ValueError: shapes do not belong together, or the drafts have no law.
    Source: arXiv:2211.17192, algorithm 1; arXiv:2302.01318, algorithm 2.
    """
    draft_probs = require_draft_probs("speculative_sampling", draft_probs, verifier_probs)
    length = draft_lengths("speculative_sampling", draft_ids, draft_probs, verifier_probs, draft_length)
    accept = accept_probability(prob_at(verifier_probs, draft_ids), prob_at(draft_probs, draft_ids))  # [B, G]
    return accept_tokenwise(accept, draft_ids, draft_probs, verifier_probs, generator, length)
