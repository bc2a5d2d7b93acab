"""The one look at the vocabulary: a loop over chunks of slots that stores, beside each number, its exact gradient.

Shapes: N slots, D width, V rows of the head, C slots of a chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.divergences import DIVERGENCES

EQUALS = 4


@dataclass(frozen=True)
class Look:
    """What to compute at N slots; the arguments of `losses.scoring.score`."""

    head: Tensor
    labels: Tensor
    chunk_size: int
    needs: frozenset[str]
    log_correction: Tensor | None
    top_k: int | None
    verifier_hidden: Tensor | None
    verifier_head: Tensor
    temperature: float
    softcap: float | None = None

    @property
    def divergences(self) -> list[str]:
        return [name for name in DIVERGENCES if name in self.needs]


class LookUp(torch.autograd.Function):
    """(hidden [N, D], look, differentiate) -> nll, hit, in_top_k and the divergences that the look needs, each [N].

    Forward stores the gradient [N, D] in `hidden` of each number needed, so backward is a multiplication for each.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, look: Look, differentiate: bool):
        head, size = look.head, min(look.chunk_size, len(hidden))
        wide = torch.promote_types(head.dtype, torch.float32)
        nll = hidden.new_empty(len(hidden), dtype=wide)  # [N]
        hit, in_top_k = (torch.zeros_like(nll, dtype=torch.bool) for _ in range(2))  # [N] both
        divergences = {name: torch.empty_like(nll) for name in look.divergences}  # [N] each
        stored = {name: torch.empty_like(hidden) for name in sorted(look.needs) if differentiate}  # [N, D] each
        logits_buffer = head.new_empty(size, len(head))  # [C, V]
        narrow = head.dtype != wide
        wide_buffer = torch.empty_like(logits_buffer, dtype=wide) if narrow else logits_buffer  # [C, V]
        for start in range(0, len(hidden), look.chunk_size):
            part = slice(start, min(start + look.chunk_size, len(hidden)))
            label = look.labels[part, None]  # [C, 1]
            logits, z = logits_buffer[: len(label)], wide_buffer[: len(label)]  # [C, V] both
            torch.mm(hidden[part].to(head.dtype), head.T, out=logits)
            if narrow:
                z.copy_(logits)
            best = exactly_likeliest(z, hidden[part], head) if narrow else z.max(-1, keepdim=True).indices  # [C, 1]
            hit[part] = (best == label).squeeze(1)
            slope = None if look.softcap is None else soft_capped(z, look.softcap)  # [C, V] or None
            top = z.gather(1, best)  # [C, 1]
            if look.top_k is not None:
                in_top_k[part] = (z > z.gather(1, label)).sum(1) < look.top_k
            if divergences and look.verifier_hidden is not None:
                verifier_logits = look.verifier_hidden[part].to(look.verifier_head.dtype) @ look.verifier_head.T
                compare(z, verifier_logits, slope, look, part, divergences, stored)
            if look.log_correction is not None:
                top = z.add_(look.log_correction).amax(-1, keepdim=True)  # [C, 1]
            at_label = z.gather(1, label) - top  # [C, 1]
            total = z.sub_(top).exp_().sum(-1, keepdim=True)  # [C, 1] and z is the softmax times it
            nll[part] = (total.log() - at_label).squeeze(1)
            if "nll" in stored:
                z.scatter_add_(1, label, -total)  # (softmax - one-hot) * total: at the label exact also as p -> 1
                if slope is not None:
                    z.mul_(slope)
                if narrow:
                    logits.copy_(z)
                stored["nll"][part] = torch.mm(logits, head).div_(total)
        ctx.order = ["nll", "hit", "in_top_k", *divergences]
        ctx.stored_names = list(stored)
        ctx.save_for_backward(*stored.values())
        ctx.mark_non_differentiable(hit, in_top_k, *([] if "nll" in look.needs else [nll]))
        ctx.set_materialize_grads(False)
        return nll, hit, in_top_k, *divergences.values()

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes):
        slope_of = dict(zip(ctx.order, slopes, strict=True))  # [N] each, None where the number was not used
        total = None
        for name, gradient in zip(ctx.stored_names, ctx.saved_tensors, strict=True):
            if slope_of[name] is not None:
                pulled = gradient * slope_of[name][:, None]  # [N, D]
                total = pulled if total is None else total.add_(pulled)
        return None if total is None else total.to(gradient.dtype), None, None


def exactly_likeliest(z: Tensor, hidden: Tensor, head: Tensor) -> Tensor:
    """[C, 1] where the highest of the logits hidden @ head.T [C, V] stands, which `z` holds as the head's dtype does.

    Rounding keeps their order, but makes some equal: the highest is among those that are highest in `z`, and their
    products in float32 tell which. Of more than `EQUALS` that are equal, as many are looked at.
    """
    values, ids = z.topk(min(EQUALS, z.shape[1]))  # [C, E] both
    exact = (hidden.to(head.dtype)[:, None].to(z.dtype) * head[ids].to(z.dtype)).sum(-1)  # [C, E]
    exact.masked_fill_(values < values[:, :1], -torch.inf)
    return ids.masked_fill(exact < exact.amax(-1, keepdim=True), z.shape[1]).amin(-1, keepdim=True)


def soft_capped(z: Tensor, softcap: float) -> Tensor:
    """Put c tanh(z / c) in the place of `z` [C, V]; returns its slope 1 - tanh(z / c)^2, [C, V]."""
    z.div_(softcap).tanh_()
    slope = z.square().neg_().add_(1)
    z.mul_(softcap)
    return slope


def compare(
    z: Tensor,
    verifier_logits: Tensor,
    slope_of_cap: Tensor | None,
    look: Look,
    part: slice,
    values: dict[str, Tensor],
    stored: dict[str, Tensor],
) -> None:
    """Write the divergences of a chunk, from both logits [C, V], into `values`, and their gradients into `stored`."""
    verifier_logits = verifier_logits.to(z.dtype)
    if look.softcap is not None:
        verifier_logits = look.softcap * torch.tanh(verifier_logits / look.softcap)
    log_verifier = (verifier_logits / look.temperature).log_softmax(-1)  # [C, V]
    log_drafter = (z / look.temperature).log_softmax(-1)  # [C, V]
    for name, value in values.items():
        value[part], slope = DIVERGENCES[name](log_drafter, log_verifier)
        if name in stored:
            slope.sub_(log_drafter.exp().mul_(slope.sum(-1, keepdim=True))).div_(look.temperature)  # [C, V] by logit
            if slope_of_cap is not None:
                slope.mul_(slope_of_cap)
            stored[name][part] = slope.to(look.head.dtype) @ look.head
