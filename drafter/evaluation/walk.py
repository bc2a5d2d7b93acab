"""Tokens per cycle without decoding: draft at every position in one pass, then walk along the known answer.

Greedy decoding is lossless, so along the verifier's own greedy answer its cycles are known: jump by accepted + 1. It
equals the decoder's own count in exact arithmetic and has no sampling noise.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from drafter.blocks import every_anchor, slot_ids, slot_labels
from drafter.data.rows import Row, Rows, pad
from drafter.decode import Generation
from drafter.evaluation.cycles import Cycles
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier, VerifierHead
from drafter.verifier.output import OutputHead

ANCHORS_PER_PASS = 512


def walk_row(leading: list[int], draft_length: int) -> tuple[list[int], list[int]]:
    """The cycles of one answer.

    Args:
        leading: for each anchor, in order, how many drafts match from the first slot on; anchor i is answer token i.
    Returns:
        emitted and accepted tokens of each cycle. The token after the last anchor ends the answer.
    """
    emitted, accepted, at = [], [], 0
    while at < len(leading):
        left = len(leading) - at
        keep = min(leading[at], draft_length, left)
        emitted.append(min(keep + 1, left))
        accepted.append(keep)
        at += keep + 1
    return emitted, accepted


def leading_matches(
    drafter: BlockDiffusionDrafter,
    verifier: VerifierHead,
    rows: Rows,
    taps: Tensor,
    head: OutputHead | None = None,
) -> list[list[int]]:
    """For every anchor of every row, how many greedy drafts match the answer before the first miss.

    Args:
        taps: of the rows, [B, S, T*D].
        head: `exact_head`, where there are many batches.
    """
    return leading_of(slot_hits(drafter, verifier, rows, taps, head))


def leading_of(hits: Iterable[tuple[Tensor, Tensor]]) -> list[list[int]]:
    """The `leading_matches` of `slot_hits`."""
    return [one.cumprod(-1).sum(-1).tolist() for one, _ in hits]


class Blocks(NamedTuple):
    """Some of the blocks that start at every anchor of padded rows.

    Attributes:
        anchors, used: [B, A]; used is False where a row has no such anchor.
        hidden: the drafter's states of the drafted slots, [B, A, G, D].
        labels, valid: the answer's tokens there, and whether there is one, [B, A, G].
    """

    anchors: Tensor
    used: Tensor
    hidden: Tensor
    labels: Tensor
    valid: Tensor


@torch.no_grad()
def blocks_along(drafter: BlockDiffusionDrafter, verifier: VerifierHead, rows: Rows, taps: Tensor) -> Iterator[Blocks]:
    """Draft behind every anchor of every row, `ANCHORS_PER_PASS` of each at a time."""
    taps = taps.to(drafter.dtype)  # the verifier may be in half precision
    size = drafter.block_size
    anchors, used = every_anchor(rows.supervised)  # [B, A]
    for some, use in zip(anchors.split(ANCHORS_PER_PASS, 1), used.split(ANCHORS_PER_PASS, 1), strict=True):
        block = verifier.embed(slot_ids(rows.ids, some, size, drafter.mask_token_id))  # [B, A, K, D]
        hidden = drafter(block, taps, some)[:, :, 1:]  # [B, A, G, D]
        yield Blocks(some, use, hidden, *slot_labels(rows.ids, rows.supervised, some, use, size))


def exact_head(drafter: BlockDiffusionDrafter, verifier: VerifierHead) -> OutputHead:
    """The head over what may be proposed, in float32: a copy of the verifier's, unless it is that already."""
    return verifier.output.rows(drafter.vocabulary).to(torch.float32)


@torch.no_grad()
def slot_hits(
    drafter: BlockDiffusionDrafter,
    verifier: VerifierHead,
    rows: Rows,
    taps: Tensor,
    head: OutputHead | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Per row, for every anchor and slot: whether the greedy draft is the answer's token, and whether there is one.

    Args:
        head: as in `leading_matches`.
    Returns:
        hits, valid: both [anchors, G], on the CPU; what `drafter.evaluation.metrics` takes.
    """
    vocabulary = drafter.vocabulary
    head = head or exact_head(drafter, verifier)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(rows.ids))]
    for _, use, hidden, labels, valid in blocks_along(drafter, verifier, rows, taps):
        drafted = torch.zeros_like(labels)
        drafted[valid] = _propose(hidden[valid], head, vocabulary)
        hits, exists = ((drafted == labels) & valid).cpu(), valid.cpu()  # [B, A, G] both
        for row, own in enumerate(use.cpu()):
            found[row].append((hits[row, own], exists[row, own]))
    return [(torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts])) for parts in found]


def _propose(hidden: Tensor, head: OutputHead, vocabulary: Tensor | None, chunk_size: int = 512) -> Tensor:
    best = torch.cat([head(part).argmax(-1) for part in hidden.split(chunk_size)])  # [N]
    return best if vocabulary is None else vocabulary[best]


def walk(leading: Iterable[list[int]], draft_length: int) -> Cycles:
    """The cycles along answers, given the `leading_matches` of each."""
    result = Cycles.none(draft_length)
    for row in leading:
        result.add(*walk_row(row, draft_length))
    return result


def walk_along(
    answers: Sequence[Generation],
    prompts: Sequence[list[int]],
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    draft_length: int | None = None,
) -> Cycles:
    """The walk along greedy answers just decoded: what the decoder's own count must equal.

    Args:
        draft_length: None for the trained number.
    """
    leading = leading_of(hits_along(answers, prompts, verifier, drafter))
    return walk(leading, drafter.block_size - 1 if draft_length is None else draft_length)


def hits_along(
    answers: Sequence[Generation], prompts: Sequence[list[int]], verifier: Verifier, drafter: BlockDiffusionDrafter
) -> list[tuple[Tensor, Tensor]]:
    """`slot_hits` along greedy answers just decoded, one pair for each; empty for a prompt that could not run."""
    found: list[tuple[Tensor, Tensor]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(answer.token_ids) < 2:  # no anchor has a token behind it
            found.append((torch.zeros(0, drafter.block_size - 1, dtype=torch.bool),) * 2)
            continue
        rows = pad([Row.of(prompt, answer.token_ids)]).to(verifier.device)
        found += slot_hits(drafter, verifier, rows, verifier.taps(rows.ids, drafter.tap_layers).clone())
    return found
