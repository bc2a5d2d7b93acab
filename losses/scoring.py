"""One look at the vocabulary: per-slot scores and their exact gradients, in chunks, so that no [N, V] exists.

Shapes: N slots, D width, V rows of the head, C slots of a chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.base import BlockScores

CHUNK_SIZE = 256


@dataclass(frozen=True)
class SlotScores:
    """Scores of N slots: nll [N] in nats, differentiable in the hidden states; hit [N]; in_top_k [N] if asked for."""

    nll: Tensor
    hit: Tensor
    in_top_k: Tensor | None = None


def score_slots(hidden: Tensor, head: Tensor, labels: Tensor, chunk_size: int = CHUNK_SIZE) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of each slot's label, and whether the argmax hits it.

    Args:
        hidden: [N, D] the drafter's hidden states; the only input that gets a gradient. Where logits are scaled, scale
            these; a head with a bias or a soft cap is not supported.
        head: [V, D] the frozen output head. Logits are made in its dtype; the softmax in float32, or float64 for
            float64.
        labels: [N] in 0..V-1.
        chunk_size: slots per chunk; the peak is some 6 bytes * chunk_size * V for a 16-bit head.
    Returns:
        nll [N], float32 or float64, and hit [N], bool.
    """
    scores = score(hidden, head, labels, chunk_size)
    return scores.nll, scores.hit


def score(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    chunk_size: int = CHUNK_SIZE,
    *,
    log_correction: Tensor | None = None,
    top_k: int | None = None,
) -> SlotScores:
    """`score_slots` with options.

    Args:
        log_correction: [V] added to the logits for nll and its gradient, not for hit; for a head whose rows are a
            sample of the vocabulary, the log of how many rows each one stands for.
        top_k: also say whether the label is among the k likeliest tokens.
    Raises:
        ValueError: shapes that do not fit, chunk_size or top_k below 1.
    """
    slots, width = hidden.shape
    if head.dim() != 2 or head.shape[1] != width or labels.shape != (slots,):
        shapes = f"hidden {list(hidden.shape)}, head {list(head.shape)}, labels {list(labels.shape)}"
        raise ValueError(f"{shapes}: must be [N, D], [V, D] and [N]")
    if log_correction is not None and log_correction.shape != head.shape[:1]:
        raise ValueError(f"log_correction {list(log_correction.shape)}: must be [V], here [{head.shape[0]}]")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be >= 1")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: must be >= 1, or None to leave it out")
    differentiate = hidden.requires_grad and torch.is_grad_enabled()
    with torch.autocast(hidden.device.type, enabled=False):  # the head's dtype decides
        nll, hit, in_top_k = _Score.apply(hidden, head, labels, chunk_size, log_correction, top_k, differentiate)
    return SlotScores(nll, hit, in_top_k if top_k is not None else None)


def score_blocks(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    valid: Tensor,
    chunk_size: int = CHUNK_SIZE,
    *,
    log_correction: Tensor | None = None,
    top_k: int | None = None,
) -> BlockScores:
    """`score` of the valid slots of blocks; invalid ones are dropped before the product, not masked after it.

    Args:
        hidden: [B, A, G, D] the drafter's hidden states of the draft slots, anchors left out.
        head: [V, D]; chunk_size, log_correction, top_k: as in `score`.
        labels: [B, A, G] the tokens that slots predict; anything at invalid slots.
        valid: [B, A, G].
    """
    if hidden.dim() != 4 or not hidden.shape[:3] == labels.shape == valid.shape:
        shapes = f"hidden {list(hidden.shape)}, labels {list(labels.shape)}, valid {list(valid.shape)}"
        raise ValueError(f"{shapes}: must be [B, A, G, D], [B, A, G] and [B, A, G]")
    index = valid.flatten().nonzero().squeeze(1)  # [N]
    kept = hidden.flatten(0, 2).index_select(0, index)  # [N, D]
    scores = score(
        kept, head, labels.flatten().index_select(0, index), chunk_size, log_correction=log_correction, top_k=top_k
    )

    def scatter(value: Tensor) -> Tensor:
        return value.new_zeros(valid.numel()).index_copy(0, index, value).view_as(valid)  # [B, A, G]

    in_top_k = None if scores.in_top_k is None else scatter(scores.in_top_k)
    return BlockScores(scatter(scores.nll), scatter(scores.hit), valid, hidden=kept, in_top_k=in_top_k)


class _Score(torch.autograd.Function):
    """nll, hit and in_top_k; forward stores the gradient of nll in hidden, so backward is one multiplication."""

    @staticmethod
    def forward(ctx, hidden, head, labels, chunk_size, log_correction, top_k, differentiate):
        wide = torch.promote_types(head.dtype, torch.float32)
        nll = hidden.new_empty(len(hidden), dtype=wide)  # [N]
        hit, in_top_k = (torch.zeros_like(nll, dtype=torch.bool) for _ in range(2))  # [N]
        gradient = torch.empty_like(hidden) if differentiate else None  # [N, D]
        logits_buffer = head.new_empty(min(chunk_size, len(hidden)), len(head))  # [C, V]
        wide_buffer = logits_buffer if head.dtype == wide else logits_buffer.to(wide)  # [C, V] same memory if it can be
        for start in range(0, len(hidden), chunk_size):
            part = slice(start, min(start + chunk_size, len(hidden)))
            label = labels[part, None]  # [C, 1]
            narrow, z = logits_buffer[: len(label)], wide_buffer[: len(label)]  # [C, V] both
            torch.mm(hidden[part].to(head.dtype), head.T, out=narrow)
            if z is not narrow:
                z.copy_(narrow)
            top, best = z.max(-1, keepdim=True)  # [C, 1] both
            hit[part] = (best == label).squeeze(1)
            if top_k is not None:
                in_top_k[part] = (z > z.gather(1, label)).sum(1) < top_k
            if log_correction is not None:
                top = z.add_(log_correction).amax(-1, keepdim=True)  # [C, 1]
            at_label = z.gather(1, label) - top  # [C, 1]
            total = z.sub_(top).exp_().sum(-1, keepdim=True)  # [C, 1] and z is the softmax times it
            nll[part] = (total.log() - at_label).squeeze(1)
            if gradient is not None:
                z.scatter_add_(1, label, -total)  # (softmax - one-hot) * total: at the label exact also as p -> 1
                if z is not narrow:
                    narrow.copy_(z)
                gradient[part] = torch.mm(narrow, head).div_(total)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hit, in_top_k)
        return nll, hit, in_top_k

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_nll, *_):
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_nll[:, None]).to(gradient.dtype), None, None, None, None, None, None
