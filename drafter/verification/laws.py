"""How far from the verifier each rule emits: the distance of the law that its docstring states, slot by slot."""

from collections.abc import Callable

import torch
from torch import Tensor

from drafter.verification.base import accept_probability, per_slot, residual, total_variation
from drafter.verification.typical import typical_threshold


def lenient_law(verifier: Tensor, draft: Tensor, lenience: float) -> Tensor:
    """min(p / l, q) + (1 - sum min(p / l, q)) norm(max(0, p - q)), [..., V]."""
    kept = draft * accept_probability(verifier, lenience * draft)  # [..., V]
    return kept + (1 - kept.sum(-1, keepdim=True)) * residual(verifier, draft)


def typical_law(verifier: Tensor, draft: Tensor, epsilon: float = 0.09, delta: float = 0.3) -> Tensor:
    """q(x) [x in A] + (1 - q(A)) p(x), A the tokens above the threshold, [..., V]."""
    kept = draft * (verifier > typical_threshold(verifier, epsilon, delta)[..., None])  # [..., V]
    return kept + (1 - kept.sum(-1, keepdim=True)) * verifier


def variation(
    rule: str, verifier: Tensor, draft: Tensor, *, verifier_weight: Tensor | float | None = None, **parameters: float
) -> Tensor:
    """TV to the verifier's law of what a rule emits at each drafted slot, [B, G] float64.

    Args:
        rule: its name.
        verifier, draft: laws [B, G, V].
        verifier_weight: of an ensemble, one number or [B, G].
        parameters: what the rule was made with.
    Raises:
        ValueError: the rule's law is not known here.
    """
    if rule in ("match", "speculative_sampling", "block_verification", "shared_noise"):
        return torch.zeros(verifier.shape[:2], dtype=torch.float64, device=verifier.device)
    distance = per_slot(total_variation, verifier, draft)  # [B, G]
    if rule in ("static_ensemble", "dynamic_ensemble") and verifier_weight is not None:
        return (1 - verifier_weight) * distance
    if rule == "variation_budget":
        return distance.clamp(max=parameters["budget"])
    laws: dict[str, Callable[..., Tensor]] = {"lenient": lenient_law, "typical_acceptance": typical_law}
    if rule not in laws:
        raise ValueError(f"rule={rule!r}: the law that it emits is not known here")
    return per_slot(lambda p, q: total_variation(laws[rule](p, q, **parameters), p), verifier, draft)
