"""Attention over two sides at once, a row's context and each block's own slots, joined by their log-sum-exp.

Backward makes the weights again from the kept log-sum-exp L, as FlashAttention does (arXiv:2205.14135): with scores S,
weights P = exp(S - L), output O = P V and its gradient G,

    dV = P^T G,   dS = P * (G V^T - sum(G * O)),   dQ = dS K,   dK = dS^T Q,

on each side by itself, where O and L are those of both. Memory grows with blocks and context, not with their product.
Shape letters here: b rows and a blocks at a time, E context positions, g query heads of one key/value head.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Few(NamedTuple):
    """Blocks whose attention is computed together, and the context positions that some of them see, at least one."""

    rows: slice
    blocks: slice
    context: slice
    hidden: Tensor | None  # bool [b, 1, a, 1, K or 1, E']: which of the last E' of those positions a slot does not see

    @property
    def here(self) -> tuple[slice, slice, slice]:
        """Where they stand in what blocks have, [B, Hk, A, ...]."""
        return self.rows, slice(None), self.blocks

    @property
    def there(self) -> tuple[slice, slice, slice]:
        """Where their context stands in what positions have, [B, Hk, S, ...]."""
        return self.rows, slice(None), self.context


class Joined(torch.autograd.Function):
    """Attention of all blocks, a few at a time.

    Args:
        parts: all blocks.
        own: which slots of its own block a slot does not see, bool [K, K], or None.
        query: scaled, [B, Hk, A, g*K, D]; key: [B, Hk, A, K, D]; value: [B, Hk, A, K, D'].
        context_key: [B, Hk, S, D]; context_value: [B, Hk, S, D'].
    Returns:
        [B, Hk, A, g*K, D'].
    """

    @staticmethod
    def forward(
        ctx: Any,
        parts: list[Few],
        own: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context_key: Tensor,
        context_value: Tensor,
    ) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        total = query.new_empty(*query.shape[:-1], 1)  # L
        for few in parts:
            here, there = few.here, few.there
            far, near = _scores(few, own, query[here], key[here], context_key[there])
            top = torch.maximum(far.amax(-1, keepdim=True), near.amax(-1, keepdim=True))  # finite: a slot sees itself
            far, near = far.sub_(top).exp_(), near.sub_(top).exp_()
            mass = far.sum(-1, keepdim=True) + near.sum(-1, keepdim=True)
            out[here] = (_times(far, context_value[there]) + near @ value[here]) / mass
            total[here] = mass.log() + top
        ctx.save_for_backward(query, key, value, context_key, context_value, out, total)
        ctx.parts, ctx.own = parts, own
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out, total = ctx.saved_tensors
        query, key, value, context_key, context_value = tensors
        shared = (grad * out).sum(-1, keepdim=True)  # sum(G * O), [B, Hk, A, g*K, 1]
        to_query, to_key, to_value = (torch.empty_like(one) for one in tensors[:3])
        to_context_key, to_context_value = (torch.zeros_like(one) for one in tensors[3:])
        for few in ctx.parts:
            here, there = few.here, few.there
            scores = _scores(few, ctx.own, query[here], key[here], context_key[there])
            far, near = (one.sub_(total[here]).exp_() for one in scores)  # P of either side
            to_context_value[there] += _summed(far, grad[here])
            to_value[here] = near.mT @ grad[here]
            far = _times(grad[here], context_value[there].mT).sub_(shared[here]).mul_(far)  # dS of either side
            near = (grad[here] @ value[here].mT).sub_(shared[here]).mul_(near)
            to_query[here] = _times(far, context_key[there]) + near @ key[here]
            to_context_key[there] += _summed(far, query[here])
            to_key[here] = near.mT @ query[here]
        return None, None, to_query, to_key, to_value, to_context_key, to_context_value


def _scores(few: Few, own: Tensor | None, query: Tensor, key: Tensor, context_key: Tensor) -> tuple[Tensor, Tensor]:
    """A few blocks with their context, [b, Hk, a, g*K, E], and each within itself, [.., g*K, K]; -inf where hidden."""
    far, near = _times(query, context_key.mT), query @ key.mT
    groups = (-1, near.shape[-1])  # g, K
    if few.hidden is not None:
        seen = far.shape[-1] - few.hidden.shape[-1]
        far.unflatten(3, groups)[..., seen:].masked_fill_(few.hidden, -torch.inf)
    if own is not None:
        near.unflatten(3, groups).masked_fill_(own, -torch.inf)
    return far, near


def _times(x: Tensor, y: Tensor) -> Tensor:
    """x [b, Hk, a, n, i] times the context's y [b, Hk, i, j], which all blocks share: [b, Hk, a, n, j]."""
    return (x.flatten(2, 3) @ y).unflatten(2, x.shape[2:4])


def _summed(x: Tensor, y: Tensor) -> Tensor:
    """What all blocks give to the context: the sum over them of x^T y, [b, Hk, i, j]."""
    return x.flatten(2, 3).mT @ y.flatten(2, 3)
