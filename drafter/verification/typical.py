"""Lossy: keep drafts that the verifier finds typical."""

from functools import partial

import torch
from torch import Tensor

from drafter.verification.base import (
    Rule,
    Verification,
    count_leading,
    draft_lengths,
    drafted,
    inverse_cdf,
    law_at,
    per_slot,
    prob_at,
    require_fraction,
    uniforms,
)


def typical_threshold(verifier: Tensor, epsilon: float, delta: float) -> Tensor:
    """min(epsilon, delta exp(-H(verifier))), H in nats, over the last dimension."""
    return (delta * (-torch.special.entr(verifier).sum(-1)).exp()).clamp(max=epsilon)


def typical_acceptance(epsilon: float = 0.09, delta: float = 0.3) -> Rule:
    """Make the rule that accepts draft x where p(x) > min(epsilon, delta exp(-H(p))), up to the first failure.

    p verifier, q drafter. Lossy, without a bound on the distance to p. Law at a drafted slot, with A the tokens above
    the threshold: q(x) [x in A] + (1 - q(A)) p(x); the correction and the bonus token are drawn from p. From one-hot
    laws it decodes as the verifier does. The drafts need no law.

    Args:
        epsilon: highest threshold, in [0, 1].
        delta: threshold of a law without entropy, above 0.
    Raises:
        ValueError: a parameter is out of its range.
    Source: arXiv:2401.10774, with the defaults of its released code.
    """
    require_fraction("typical_acceptance.epsilon", epsilon)
    if not delta > 0:
        raise ValueError(f"typical_acceptance.delta={delta}: must be > 0")
    return partial(_typical, epsilon=epsilon, delta=delta)


def _typical(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator,
    *,
    epsilon: float,
    delta: float,
    draft_length: Tensor | None = None,
) -> Verification:
    length = draft_lengths("typical_acceptance", draft_ids, draft_probs, verifier_probs, draft_length)
    noise = uniforms((draft_ids.shape[0],), generator, draft_ids.device)  # [B]
    threshold = per_slot(lambda law: typical_threshold(law, epsilon, delta), verifier_probs[:, :-1])  # [B, G]
    keep = prob_at(verifier_probs, draft_ids) > threshold  # [B, G]
    accepted = count_leading(keep & drafted(draft_ids, length))  # [B]
    return Verification(accepted, inverse_cdf(law_at(verifier_probs, accepted), noise))
