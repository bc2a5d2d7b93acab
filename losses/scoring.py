"""Per-slot scores of a drafter, from one look at the vocabulary in which no [N, V] tensor exists.

Shapes: N slots, D width, V rows of the head, C slots of a chunk; B batch, A anchors, G draft slots of a block.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from losses.base import BlockScores
from losses.divergences import DIVERGENCES
from losses.vocabulary import Look, LookUp

CHUNK_SIZE = 256


@dataclass(frozen=True)
class SlotScores:
    """Scores of N slots, each [N]; `BlockScores` says what they are. Those not asked for are None."""

    nll: Tensor
    hit: Tensor
    in_top_k: Tensor | None = None
    log_acceptance: Tensor | None = None
    forward_kl: Tensor | None = None
    reverse_kl: Tensor | None = None
    jsd: Tensor | None = None


def score_slots(hidden: Tensor, head: Tensor, labels: Tensor, chunk_size: int = CHUNK_SIZE) -> tuple[Tensor, Tensor]:
    """The negative log-likelihood of each slot's label, and whether the argmax hits it.

    Args:
        hidden: [N, D] the drafter's hidden states; the only input that gets a gradient. Where logits are scaled, scale
            these, and give those of a head with a bias a column of ones; for a soft cap see `score`.
        head: [V, D] the frozen output head. Logits are made in its dtype; the softmax in float32, or float64 for
            float64.
        labels: [N] in 0..V-1.
        chunk_size: slots per chunk; the peak is some 6 bytes * chunk_size * V for a 16-bit head.
    Returns:
        nll [N], float32 or float64, of logits in the head's dtype; and hit [N], bool, of those that rounding to it did
            not make equal (with 49 152 tokens in bfloat16, the two highest are for 5 % of slots; in 3 % another wins).
    """
    scores = score(hidden, head, labels, chunk_size)
    return scores.nll, scores.hit


def score(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    chunk_size: int = CHUNK_SIZE,
    *,
    needs: Collection[str] = ("nll",),
    log_correction: Tensor | None = None,
    top_k: int | None = None,
    verifier_hidden: Tensor | None = None,
    verifier_head: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> SlotScores:
    """`score_slots` with options.

    Args:
        needs: the scores to differentiate, of nll and the divergences (`Losses.needs`): each one stores a gradient
            [N, D] and costs a matrix product. nll is always given, the divergences only if needed.
        log_correction: [V] added to the logits for nll and its gradient, not for hit; for a head whose rows are a
            sample of the vocabulary, the log of how many rows each one stands for.
        top_k: also say whether the label is among the k likeliest tokens.
        verifier_hidden: [N, D'] the verifier's last hidden states before the slots' tokens, for the divergences; its
            logits are made in the same chunks.
        verifier_head: [V, D']; None where it is `head`.
        temperature: of both laws that a divergence compares; nll is always at 1.
        softcap: c of a head whose logits are c tanh(z / c), those of both laws; costs one more [chunk_size, V].
    Raises:
        ValueError: shapes that do not fit, numbers out of range, a need that is unknown or cannot be met.
    """
    slots, width = hidden.shape
    if head.dim() != 2 or head.shape[1] != width or labels.shape != (slots,):
        shapes = f"hidden {list(hidden.shape)}, head {list(head.shape)}, labels {list(labels.shape)}"
        raise ValueError(f"{shapes}: must be [N, D], [V, D] and [N]")
    if log_correction is not None and log_correction.shape != head.shape[:1]:
        raise ValueError(f"log_correction {list(log_correction.shape)}: must be [V], here [{head.shape[0]}]")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be >= 1")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap={softcap}: must be > 0, or None for a head without")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: must be >= 1, or None to leave it out")
    verifier_head = head if verifier_head is None else verifier_head
    look = Look(
        head,
        labels,
        chunk_size,
        frozenset(needs),
        log_correction,
        top_k,
        verifier_hidden,
        verifier_head,
        temperature,
        softcap,
    )
    check_divergences(look)
    differentiate = hidden.requires_grad and torch.is_grad_enabled()
    with torch.autocast(hidden.device.type, enabled=False):  # the head's dtype decides
        nll, hit, in_top_k, *divergences = LookUp.apply(hidden, look, differentiate)
    asked = dict(zip(look.divergences, divergences, strict=True))
    return SlotScores(nll, hit, in_top_k if top_k is not None else None, **asked)


def check_divergences(look: Look) -> None:
    """Raise a ValueError where a look needs a score that is unknown, or cannot be had of what it was given."""
    if unknown := look.needs - {"nll", *DIVERGENCES}:
        raise ValueError(f"needs {', '.join(sorted(unknown))}: must be of nll, {', '.join(DIVERGENCES)}")
    if not look.divergences:
        return
    what = f"needs {', '.join(look.divergences)}"
    if look.verifier_hidden is None:
        raise ValueError(f"{what}: give verifier_hidden, the verifier's hidden states of the same slots")
    if look.log_correction is not None:
        raise ValueError(f"{what}: compares whole laws, so not with log_correction, which is for a sampled vocabulary")
    if not look.temperature > 0:
        raise ValueError(f"temperature={look.temperature}: must be > 0")
    slots, width = look.verifier_hidden.shape
    if (slots, len(look.head), width) != (len(look.labels), *look.verifier_head.shape):
        shapes = f"verifier_hidden {[slots, width]}, verifier_head {list(look.verifier_head.shape)}"
        raise ValueError(f"{shapes}: must be [N, D'] and [V, D'], here N={len(look.labels)}, V={len(look.head)}")


def score_blocks(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    valid: Tensor,
    chunk_size: int = CHUNK_SIZE,
    *,
    verifier_hidden: Tensor | None = None,
    **options,
) -> BlockScores:
    """`score` of the valid slots of blocks; invalid ones are dropped before the product, not masked after it.

    Args:
        hidden: [B, A, G, D] the drafter's hidden states of the draft slots, anchors left out.
        labels: [B, A, G] the tokens that slots predict; anything at invalid slots.
        valid: [B, A, G].
        verifier_hidden: [B, A, G, D'] for slot k the state at anchor + k - 1, which predicts the slot's token.
        head, chunk_size, options: as in `score`.
    Raises:
        ValueError: shapes that do not fit; or what `score` raises.
    """
    if hidden.dim() != 4 or not hidden.shape[:3] == labels.shape == valid.shape:
        shapes = f"hidden {list(hidden.shape)}, labels {list(labels.shape)}, valid {list(valid.shape)}"
        raise ValueError(f"{shapes}: must be [B, A, G, D], [B, A, G] and [B, A, G]")
    index = valid.flatten().nonzero().squeeze(1)  # [N]
    if verifier_hidden is not None:
        options["verifier_hidden"] = verifier_hidden.flatten(0, 2).index_select(0, index)  # [N, D']
    kept = hidden.flatten(0, 2).index_select(0, index)  # [N, D]
    scores = score(kept, head, labels.flatten().index_select(0, index), chunk_size, **options)
    scattered = {}
    for each in fields(scores):
        value = getattr(scores, each.name)  # [N]
        if value is not None:
            scattered[each.name] = value.new_zeros(valid.numel()).index_copy(0, index, value).view_as(valid)
    return BlockScores(**scattered, valid=valid, hidden=kept)


@torch.no_grad()
def verifier_labels(verifier_hidden: Tensor, verifier_head: Tensor, chunk_size: int = CHUNK_SIZE) -> Tensor:
    """[...] the verifier's argmax at each slot, from its states [..., D']: labels in place of the row's own tokens.

    A soft cap keeps the order of logits, and so the labels.
    """
    parts = verifier_hidden.flatten(0, -2).split(chunk_size)
    best = [(part.to(verifier_head.dtype) @ verifier_head.T).argmax(-1) for part in parts]
    return torch.cat(best).view(verifier_hidden.shape[:-1])
