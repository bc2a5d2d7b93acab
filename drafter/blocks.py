"""Blocks of a training row: where they are anchored, what their slots hold and predict, what they may see.

Pure functions of index tensors. Slot 0 of a block holds the anchor's token, slots 1..G the mask token; slot k stands at
position anchor + k and predicts the token there (no shift). A row may hold several documents, one behind the other;
`documents` [B, S] then numbers the document of each position from 0, -1 for padding, and nothing crosses from one to
the next.
"""

import torch
from torch import Tensor


def sample_anchors(
    supervised: Tensor, count: int, draws: Tensor, documents: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw sorted anchors without replacement among positions whose next token is supervised.

    Args:
        supervised: bool [B, S], True at answer tokens.
        count: anchors per document; those with fewer candidates leave the rest unused, what no row uses is left out.
        draws: a number in [0, 1) for each position, independent and uniform, [B, S]: the largest are taken.
        documents: [B, S], or None where a row is one document.
    Returns:
        anchors [B, A] in ascending order, and which of them are used, bool [B, A]; unused ones stand at 0.
    """
    candidates = supervised & torch.roll(supervised, -1, dims=1)
    candidates[:, -1] = False
    count = min(count, supervised.shape[1])
    if documents is None:
        top = draws.masked_fill(~candidates, -1.0).topk(count, dim=1)  # [B, A]
        values, places = top.values, top.indices
    else:
        candidates &= documents == torch.roll(documents, -1, dims=1)
        each = [candidates & (documents == number) for number in range(int(documents.max()) + 1)]
        tops = [draws.masked_fill(~one, -1.0).topk(count, dim=1) for one in each]
        values, places = (torch.cat(parts, dim=1) for parts in zip(*tops, strict=True))  # [B, documents * A]
    used = values >= 0
    last = supervised.shape[1]
    anchors, order = places.masked_fill(~used, last).sort(dim=1)
    used = used.gather(1, order)
    anchors = anchors.masked_fill(~used, 0)
    most = max(1, int(used.sum(1).max()))  # a block that no row uses would cost as much as others
    return anchors[:, :most], used[:, :most]


def every_anchor(supervised: Tensor) -> tuple[Tensor, Tensor]:
    """Every position whose next token is supervised, as `sample_anchors` returns them."""
    most = max(int(supervised.sum(1).max()), 1)
    return sample_anchors(supervised, most, torch.zeros(supervised.shape, device=supervised.device))


def slot_positions(anchors: Tensor, block_size: int) -> Tensor:
    """Absolute position of every slot: [B, A] -> [B, A, K]."""
    return anchors[..., None] + torch.arange(block_size, device=anchors.device)


def document_positions(documents: Tensor) -> Tensor:
    """Position of each token in its own document: [B, S] -> [B, S]."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = documents != torch.roll(documents, 1, dims=1)
    begins[:, 0] = True
    return index - index.where(begins, 0).cummax(1).values


def document_starts(anchors: Tensor, documents: Tensor | None) -> Tensor:
    """Where the document of each anchor [B, A] begins in its row, [B, A]; None: a row is one document."""
    if documents is None:
        return torch.zeros_like(anchors)
    return anchors - document_positions(documents).gather(1, anchors)


def slot_labels(
    ids: Tensor,
    supervised: Tensor,
    anchors: Tensor,
    used: Tensor,
    block_size: int,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The token that each drafted slot predicts, and whether it is known.

    Args:
        ids: [B, S]; supervised: bool [B, S]; anchors, used: [B, A]; documents: [B, S] or None.
    Returns:
        labels [B, A, G] and valid [B, A, G]; a block's valid slots are a prefix: the answer ends where they end.
    """
    positions = slot_positions(anchors, block_size)[..., 1:]  # [B, A, G]
    inside = positions < ids.shape[1]
    flat = positions.clamp(max=ids.shape[1] - 1).flatten(1)  # [B, A*G]
    labels = ids.gather(1, flat).view_as(positions)
    known = supervised.gather(1, flat).view_as(positions) & inside & used[..., None]
    if documents is not None:
        known &= documents.gather(1, flat).view_as(positions) == documents.gather(1, anchors)[..., None]
    return labels, known.cumprod(-1).bool()


def drafted_slots(
    supervised: Tensor, anchors: Tensor, used: Tensor, block_size: int, documents: Tensor | None = None
) -> Tensor:
    """Which positions some slot predicts, bool [B, S]; arguments as of `slot_labels`."""
    index = torch.arange(supervised.shape[1], device=supervised.device).expand(supervised.shape)
    where, valid = slot_labels(index, supervised, anchors, used, block_size, documents)  # [B, A, G]
    hit = torch.zeros(supervised.shape, dtype=torch.int32, device=supervised.device)
    return hit.scatter_add_(1, where.flatten(1), valid.flatten(1).int()) > 0


def slots_before(states: Tensor, anchors: Tensor, block_size: int) -> Tensor:
    """States [B, S, D] at anchor + k - 1, whence the verifier predicts slot k: [B, A, G, D]; past the row, its last."""
    positions = slot_positions(anchors, block_size)[..., :-1].clamp(max=states.shape[1] - 1)  # [B, A, G]
    return states[torch.arange(len(states), device=states.device)[:, None, None], positions]


def slot_ids(ids: Tensor, anchors: Tensor, block_size: int, mask_token_id: int) -> Tensor:
    """What the slots hold: the anchor's token, then the mask token, [B, A, K]."""
    slots = torch.full((*anchors.shape, block_size), mask_token_id, device=ids.device)
    slots[..., 0] = ids.gather(1, anchors)
    return slots


def block_mask(anchors: Tensor, sequence_length: int, block_size: int, documents: Tensor | None = None) -> Tensor:
    """Which keys each slot sees: context strictly before its anchor and in its document, and all of its own block.

    Args:
        anchors: [B, A].
        documents: document number of each position, [B, S]; None when a row is one document.
    Returns:
        bool [B, A*K, S + A*K]; the keys are the S context positions, then the slots of all blocks.
    """
    batch, count = anchors.shape
    position = torch.arange(sequence_length, device=anchors.device)
    context = position < anchors[..., None]  # [B, A, S] strictly: the anchor's own taps do not exist when drafting
    if documents is not None:
        context &= documents[:, None, :] == documents.gather(1, anchors)[..., None]
    context = context.repeat_interleave(block_size, dim=1)  # [B, A*K, S]
    block = torch.arange(count, device=anchors.device).repeat_interleave(block_size)  # [A*K]
    own = (block[:, None] == block).expand(batch, -1, -1)  # [B, A*K, A*K]
    return torch.cat([context, own], dim=-1)


def narrowed(
    mask: Tensor, anchors: Tensor, sequence_length: int, block_size: int, causal: bool, window: int | None
) -> Tensor:
    """A `block_mask` of which each slot sees only what is at most at its own position (causal), and within the window.

    Args:
        window: how many positions are seen, the slot's own included; None for all.
    """
    own = slot_positions(anchors, block_size).flatten(1)  # [B, A*K]
    context = torch.arange(sequence_length, device=anchors.device).expand(len(anchors), -1)
    behind = own[..., None] - torch.cat([context, own], dim=1)[:, None]  # [B, A*K, S + A*K]
    if causal:
        mask = mask & (behind >= 0)
    return mask if window is None else mask & (behind.abs() < window)
