"""How rows become a batch."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drafter.blocks import drafted_slots, sample_anchors, slot_labels
from drafter.config import AlignmentConfig, require
from drafter.data.packing import pad_packed
from drafter.data.rows import Row, Rows, pad


class Batch(NamedTuple):
    """Rows with their taps (None until a verifier has made them) and blocks; `number` counts from the run's first."""

    number: int
    rows: Rows
    taps: Tensor | None  # [B, S, T*D], or `Verifier.states`
    anchors: Tensor  # [B, A]
    used: Tensor  # [B, A]
    slots: Tensor  # [G] how many blocks have a valid slot k, in the mean over the micro-batches of the step
    packs: tuple[tuple[int, ...], ...] = ()  # of each row, the numbers of its documents; of a stream, empty
    drafted: int = 0  # supervised tokens that some slot predicts
    supervised: int = 0
    epoch_ends: bool = False
    place: tuple[int, ...] = ()  # of a stream: the reader, and where it stands behind this batch
    tokens: int = 0  # without padding
    blocks: int = 0  # that are used


@dataclass(frozen=True)
class Assembly:
    """How rows become a batch: padded, or packed, with anchors that depend on seed, epoch and document alone.

    Args:
        anchors: blocks per document.
    """

    seed: int
    anchors: int
    block_size: int
    packing: bool

    @classmethod
    def of(cls, config: AlignmentConfig) -> "Assembly":
        anchors = config.training.anchors
        require(isinstance(anchors, int), "training.anchors", anchors, "arms must not differ in it; say how many")
        return cls(config.seed, int(anchors), config.drafter.block_size, config.data.packing)

    def __call__(self, number: int, packs: Sequence[Sequence[Row]], epoch: int = 0, epoch_ends: bool = False) -> Batch:
        """Batch `number` of the rows' documents; without packing, one to a row."""
        packs = packs if self.packing else [[row] for pack in packs for row in pack]
        rows = pad_packed(packs) if self.packing else pad([row for (row,) in packs])
        draws = torch.zeros(rows.ids.shape, dtype=torch.float64)
        for row, members in enumerate(packs):
            each = torch.cat([self.draws(document, epoch) for document in members])
            draws[row, : len(each)] = each
        anchors, used = sample_anchors(rows.supervised, self.anchors, draws, rows.documents)
        where = rows.supervised, anchors, used, self.block_size, rows.documents
        slots = slot_labels(rows.ids, *where)[1].sum((0, 1), dtype=torch.float64)
        counts = int(drafted_slots(*where).sum()), int(rows.supervised.sum())
        sizes = sum(len(document.ids) for members in packs for document in members), int(used.sum())
        return Batch(number, rows, None, anchors, used, slots, (), *counts, epoch_ends, (), *sizes)

    def draws(self, document: Row, epoch: int) -> Tensor:
        """A number in [0, 1) for each position of a document [S]: the same in whatever batch, rank or stream."""
        key = hashlib.blake2b(f"{self.seed} {epoch} ".encode() + array("q", document.ids).tobytes(), digest_size=8)
        generator = torch.Generator().manual_seed(int.from_bytes(key.digest()))
        return torch.rand(len(document.ids), generator=generator, dtype=torch.float64)


def averaged(step: Sequence[Batch]) -> list[Batch]:
    """The micro-batches of a step, which share the mean of their `slots`: one weight for all that they add up to."""
    mean = torch.stack([batch.slots for batch in step]).mean(0)
    return [batch._replace(slots=mean) for batch in step]
