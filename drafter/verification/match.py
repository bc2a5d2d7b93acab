"""Keep drafts while the verifier's own sample agrees."""

import torch
from torch import Tensor

from drafter.verification.base import Verification, accept_matching, draft_lengths, sample


def match(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    draft_length: Tensor | None = None,
) -> Verification:
    """Sample the verifier at every slot, accept while its sample is the draft, and emit it where that ends.

    y_i ~ verifier_i, independently; accepted = number of leading i with draft_i = y_i; next token y_(accepted+1).
    Law: the verifier's, whatever the drafts are: every emitted token is a sample of the verifier. A draft is kept
    with the verifier's probability of it, so for sampled drafts speculative_sampling accepts at least as many. At
    temperature 0 (one-hot laws) this is the comparison with the verifier's argmax.

    Args:
        draft_ids: proposed tokens, [B, G].
        draft_probs: not used; may be None.
        verifier_probs: the verifier's laws, [B, G + 1, V].
        generator: gives the uniforms.
        draft_length: slots drafted in each row, [B]; None for G.
    Source: the verification of DFlash (arXiv:2602.06036); at temperature 0, every lossless rule.
    """
    length = draft_lengths("match", draft_ids, draft_probs, verifier_probs, draft_length)
    return accept_matching(draft_ids, sample(verifier_probs, generator), length)
