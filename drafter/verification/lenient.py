"""Lossy: speculative sampling with the drafter's law scaled down."""

from functools import partial

import torch
from torch import Tensor

from drafter.verification.base import (
    Rule,
    Verification,
    accept_probability,
    accept_tokenwise,
    count_leading,
    draft_lengths,
    drafted,
    law_at,
    per_slot,
    prob_at,
    require_draft_probs,
    require_fraction,
)


def lenient(lenience: float, *, greedy: bool = False) -> Rule:
    """Make the rule that accepts draft x with probability min(1, p(x) / (l q(x))); the residual stays max(0, p - q).

    p verifier, q drafter, l = lenience. Lossy. Law at a drafted slot:
    min(p / l, q) + (1 - sum_x min(p / l, q)) norm(max(0, p - q)); the bonus token is the verifier's. No token gets more
    than p / l: tokens that the drafter overrates by more than 1 / l come out at p / l, those it overrates by less at q.
    The chance to accept is sum_x min(p / l, q). Lenience 1 is speculative_sampling.

    Args:
        lenience: in (0, 1]; smaller accepts more.
        greedy: accept draft x if p(x) >= l max p, correct by argmax p: no randomness. Needs the verifier's laws as they
            are at temperature 1; from one-hot laws either form decodes as the verifier does.
    Raises:
        ValueError: lenience is not in (0, 1].
    Source: arXiv:2211.17192, appendix A.5.
    """
    require_fraction("lenient.lenience", lenience, above_zero=True)
    return partial(_lenient, lenience=lenience, greedy=greedy)


def _lenient(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    lenience: float,
    greedy: bool = False,
    draft_length: Tensor | None = None,
) -> Verification:
    if greedy:
        length = draft_lengths("lenient", draft_ids, draft_probs, verifier_probs, draft_length)
        highest = per_slot(lambda law: law.amax(-1), verifier_probs[:, :-1])  # [B, G]
        keep = prob_at(verifier_probs, draft_ids) >= lenience * highest  # [B, G]
        accepted = count_leading(keep & drafted(draft_ids, length))  # [B]
        return Verification(accepted, law_at(verifier_probs, accepted).argmax(-1))
    draft_probs = require_draft_probs("lenient", draft_probs, verifier_probs)
    length = draft_lengths("lenient", draft_ids, draft_probs, verifier_probs, draft_length)
    verifier, draft = prob_at(verifier_probs, draft_ids), prob_at(draft_probs, draft_ids)  # [B, G]
    accept = accept_probability(verifier, lenience * draft)  # [B, G]
    return accept_tokenwise(accept, draft_ids, draft_probs, verifier_probs, generator, length)
