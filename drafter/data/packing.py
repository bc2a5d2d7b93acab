"""Several documents in one row, so that little of a batch is padding; nothing of one is seen by another."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import torch
from torch import Tensor

from drafter.blocks import document_positions
from drafter.data.rows import Row, Rows, pad


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Put documents together, each whole, into few rows of at most `limit` tokens: best fit, longest first.

    Args:
        lengths: tokens of each document; one longer than `limit` gets a row of its own.
    Returns:
        indices of the documents of each row.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, pack), ascending
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        at = bisect_left(rooms, (lengths[index], -1))
        if at == len(rooms):
            left, number = limit, len(packs)
            packs.append([])
        else:
            left, number = rooms.pop(at)
        packs[number].append(index)
        if left - lengths[index] > 0:
            insort(rooms, (left - lengths[index], number))
    return packs


def join(rows: Sequence[Row]) -> Row:
    """One row of several, one behind the other."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for row in rows:
        spans += [(start + len(ids), end + len(ids)) for start, end in row.spans]
        ids += row.ids
    return Row(ids, tuple(spans))


def pad_packed(packs: Sequence[Sequence[Row]]) -> Rows:
    """Right-pad rows of several documents each into a batch that knows where each document is."""
    joined = pad([join(rows) for rows in packs])
    documents = torch.full(joined.ids.shape, -1)
    for row, members in enumerate(packs):
        lengths = torch.tensor([len(each.ids) for each in members])
        documents[row, : int(lengths.sum())] = torch.arange(len(members)).repeat_interleave(lengths)
    return Rows(joined.ids, joined.supervised, documents)


def places(documents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the tokens of packed rows stand once each document has a row of its own.

    Args:
        documents: [B, S], -1 at padding.
    Returns:
        token, bool [B, S]: True at no padding; and of each such token its row [N] and its position [N] there.
    """
    token = documents >= 0
    counts = documents.amax(1) + 1  # [B]
    first = counts.cumsum(0) - counts
    return token, (documents + first[:, None])[token], document_positions(documents)[token]


def unpack(values: Tensor, documents: Tensor) -> Tensor:
    """Give each document a row of its own, right-padded with zeros: [B, S, ...] -> [documents, longest, ...]."""
    token, row, position = places(documents)
    apart = values.new_zeros(int(row.max()) + 1, int(position.max()) + 1, *values.shape[2:])
    apart[row, position] = values[token]
    return apart


def repack(apart: Tensor, documents: Tensor) -> Tensor:
    """The way back of `unpack`: [documents, longest, ...] -> [B, S, ...], zeros at padding."""
    token, row, position = places(documents)
    values = apart.new_zeros(*documents.shape, *apart.shape[2:])
    values[token] = apart[row, position]
    return values
