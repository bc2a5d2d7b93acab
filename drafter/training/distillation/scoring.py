"""Scores of predicted tokens under a head that learns, too: whole logits exist for one chunk at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Scores:
    """What a step found, of G offsets each [G].

    Attributes:
        nll: mean negative log-likelihood of the targets, nats; differentiable.
        match: share of slots whose argmax is the target.
        whole: share of groups all of whose slots are, a scalar.
    """

    nll: Tensor
    match: Tensor
    whole: Tensor

    @property
    def loss(self) -> Tensor:
        """-1 / (T k) sum_t sum_j log p_j(target_j): arXiv:2606.10820, eq. 3."""
        return self.nll.mean()


def score_tokens(logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk_size: int = 256) -> Scores:
    """Cross-entropy in float32 of all slots, their logits made again in the backward pass.

    Args:
        logits: the head, [C, D] -> [C, V].
        hidden: normed hidden states, [B, N, G, D].
        targets: tokens, [B, N, G].
    """

    def score(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        made = logits(hidden).float()
        return functional.cross_entropy(made, targets, reduction="none"), made.argmax(-1) == targets

    parts = []
    for chunk, wanted in zip(hidden.flatten(0, 2).split(chunk_size), targets.flatten().split(chunk_size), strict=True):
        parts.append(checkpoint(score, chunk, wanted, use_reentrant=False))
    nll, hit = (torch.cat(each).view(targets.shape) for each in zip(*parts, strict=True))
    return Scores(nll.mean((0, 1)), hit.float().mean((0, 1)), hit.all(-1).float().mean())
