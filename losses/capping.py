"""A coefficient that cannot drown the rest: a term's gradient is held to a multiple of the other terms' gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor


def gradient_norm(value: Tensor, hidden: Tensor) -> Tensor:
    """The norm of a scalar's gradient in `hidden` [N, D], in float32 or wider; the graph is kept."""
    (gradient,) = torch.autograd.grad(value, hidden, retain_graph=True)  # [N, D]
    return torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))


def lowered_to(coefficient: float, own: Tensor, others: Tensor, cap: float) -> Tensor:
    """min(coefficient, cap * others / own): the coefficient under which coefficient * own <= cap * others.

    Args:
        own: norm of the term's gradient, without its coefficient.
        others: norm of the other terms' gradient together, with their coefficients.
    """
    most = torch.where(own > 0, cap * others / own, torch.inf)
    return most.clamp(max=coefficient)


def norms_around(name: str, means: Mapping[str, Tensor], weights: Mapping[str, float], hidden: Tensor) -> Tensor:
    """[2] the norm of a term's gradient, and of all the others' with their weights."""
    others = torch.stack([weights[other] * mean for other, mean in means.items() if other != name]).sum()
    return torch.stack([gradient_norm(means[name], hidden), gradient_norm(others, hidden)])
