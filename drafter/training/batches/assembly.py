"""How rows become a batch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drafter.blocks import drafted, sample_anchors
from drafter.config import AlignmentConfig
from drafter.data.packing import pad_packed
from drafter.data.rows import Row, Rows, pad


class Batch(NamedTuple):
    """Rows with their taps (None until a verifier has made them) and blocks; `number` counts from the run's first."""

    number: int
    rows: Rows
    taps: Tensor | None  # [B, S, T*D], or `Verifier.states`
    anchors: Tensor  # [B, A]
    used: Tensor  # [B, A]
    packs: tuple[tuple[int, ...], ...] = ()  # of each row, the numbers of its documents; of a stream, empty
    drafted: int = 0  # supervised tokens that some slot predicts
    supervised: int = 0
    epoch_ends: bool = False
    place: tuple[int, ...] = ()  # of a stream: the reader, and where it stands behind this batch


@dataclass(frozen=True)
class Assembly:
    """How rows become a batch: padded, or packed, with anchors drawn for it alone.

    Args:
        anchors: blocks per document.
    """

    seed: int
    rank: int
    anchors: int
    block_size: int
    packing: bool

    @classmethod
    def of(cls, config: AlignmentConfig, rank: int) -> "Assembly":
        return cls(config.seed, rank, config.training.anchors, config.drafter.block_size, config.data.packing)

    def __call__(self, number: int, packs: Sequence[Sequence[Row]], epoch_ends: bool = False) -> Batch:
        """Batch `number` of the rows' documents; without packing, one to a row."""
        rows = pad_packed(packs) if self.packing else pad([row for pack in packs for row in pack])
        generator = torch.Generator()
        generator.manual_seed(random.Random(f"{self.seed} {number} {self.rank}").getrandbits(63))
        anchors, used = sample_anchors(rows.supervised, self.anchors, generator, rows.documents)
        seen = drafted(rows.supervised, anchors, used, self.block_size, rows.documents)
        counts = int(seen.sum()), int(rows.supervised.sum())
        return Batch(number, rows, None, anchors, used, (), *counts, epoch_ends)
