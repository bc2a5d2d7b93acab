"""How the drafter's law differs from the verifier's at a slot: each value with its exact gradient, in closed form.

Every function takes log-probabilities [C, V] and returns the value [C] and its derivative by log-probability of the
drafter [C, V], up to a multiple of the drafter's law, which the softmax takes out: with `slope` that derivative and
q = softmax(z / temperature), the gradient in the logits z is (slope - q * slope.sum()) / temperature.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def log_acceptance(log_drafter: Tensor, log_verifier: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_v min(q, p): the log of the rate at which speculative sampling accepts, which is 1 - total variation."""
    lower = torch.minimum(log_drafter, log_verifier)  # [C, V]
    value = lower.logsumexp(-1)  # [C] a log, as the rate itself underflows for laws that barely meet
    slope = lower.sub_(value[:, None]).exp_().mul_(log_drafter < log_verifier)  # [C, V]
    return value.clamp_max(0), slope


def forward_kl(log_drafter: Tensor, log_verifier: Tensor) -> tuple[Tensor, Tensor]:
    """sum_v p log(p / q), p the verifier's law: the drafter has to cover it."""
    verifier = log_verifier.exp()  # [C, V]
    return (verifier * (log_verifier - log_drafter)).sum(-1), verifier.neg_()


def reverse_kl(log_drafter: Tensor, log_verifier: Tensor) -> tuple[Tensor, Tensor]:
    """sum_v q log(q / p), q the drafter's law: the drafter may settle for a part of the verifier's."""
    slope = (log_drafter - log_verifier).mul_(log_drafter.exp())  # [C, V]
    return slope.sum(-1), slope


def jsd(log_drafter: Tensor, log_verifier: Tensor) -> tuple[Tensor, Tensor]:
    """Half the KL of each law to m = (p + q) / 2: in [0, log 2]."""
    log_middle = torch.logaddexp(log_drafter, log_verifier).sub_(math.log(2))  # [C, V]
    slope = (log_drafter - log_middle).mul_(log_drafter.exp()).div_(2)  # [C, V]
    of_verifier = (log_verifier - log_middle).mul_(log_verifier.exp()).div_(2)  # [C, V]
    return slope.sum(-1) + of_verifier.sum(-1), slope


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    each.__name__: each for each in (log_acceptance, forward_kl, reverse_kl, jsd)
}
