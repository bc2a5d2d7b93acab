"""Tokens per cycle without decoding: draft at every position in one pass, then walk along the known answer.

Greedy decoding is lossless, so along the verifier's own greedy answer its cycles are known: jump by accepted + 1. It
equals the decoder's own count in exact arithmetic and has no sampling noise.
"""

from collections.abc import Iterable, Sequence

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


@torch.no_grad()
def leading_matches(
    drafter: BlockDiffusionDrafter,
    verifier: VerifierHead,
    rows: Rows,
    taps: Tensor,
) -> list[list[int]]:
    """For every anchor of every row, how many greedy drafts match the answer before the first miss.

    Args:
        taps: of the rows, [B, S, T*D].
    """
    size, vocabulary = drafter.block_size, drafter.vocabulary
    anchors, used = every_anchor(rows.supervised)  # [B, A]
    head = verifier.output.rows(vocabulary).to(torch.float32)
    found: list[list[int]] = [[] for _ in range(len(anchors))]
    for some, use in zip(anchors.split(ANCHORS_PER_PASS, 1), used.split(ANCHORS_PER_PASS, 1), strict=True):
        block = verifier.embed(slot_ids(rows.ids, some, size, drafter.mask_token_id))  # [B, A, K, D]
        hidden = drafter(block, taps, some)[:, :, 1:]  # [B, A, G, D]
        labels, valid = slot_labels(rows.ids, rows.supervised, some, use, size)  # [B, A, G]
        drafted = torch.zeros_like(labels)
        drafted[valid] = _propose(hidden[valid], head, vocabulary)
        leading = ((drafted == labels) & valid).cumprod(-1).sum(-1)  # [B, A]
        for row, counts in enumerate(leading):
            found[row] += counts[use[row]].tolist()
    return found


def _propose(hidden: Tensor, head: OutputHead, vocabulary: Tensor | None, chunk_size: int = 512) -> Tensor:
    best = torch.cat([head(part).argmax(-1) for part in hidden.split(chunk_size)])  # [N]
    return best if vocabulary is None else vocabulary[best]


def walk(leading: Iterable[list[int]], draft_length: int) -> Cycles:
    """The cycles along answers, given the `leading_matches` of each."""
    result = Cycles(reached=[0] * draft_length, kept=[0] * draft_length)
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
    leading: list[list[int]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(answer.token_ids) < 2:  # no anchor has a token behind it
            leading.append([])
            continue
        rows = pad([Row.of(prompt, answer.token_ids)]).to(verifier.device)
        leading += leading_matches(drafter, verifier, rows, verifier.taps(rows.ids, drafter.tap_layers).clone())
    return walk(leading, drafter.block_size - 1 if draft_length is None else draft_length)
