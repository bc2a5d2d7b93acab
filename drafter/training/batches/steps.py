"""Batches of rows in memory: each decided by its number alone."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from drafter.config import AlignmentConfig, DataConfig
from drafter.data.order import Order
from drafter.data.packing import pack
from drafter.data.rows import Row
from drafter.taps import TapSource
from drafter.training.batches.assembly import Assembly, Batch


def packs_of(rows: Sequence[Row], data: DataConfig) -> list[list[int]]:
    """Indices of the documents of each row that a step is fed."""
    lengths = [len(row.ids) for row in rows]
    return pack(lengths, data.sequence_length) if data.packing else [[index] for index in range(len(rows))]


class Steps(Dataset[Batch]):
    """Batch number i of a run, a pure function of the seed, i and the rank: a resumed run sees the same ones.

    Args:
        taps: a source that is asked ahead; None where taps are made within the step.
        rank, world: which of how many ranks this one is.
    """

    def __init__(self, rows: list[Row], taps: TapSource | None, config: AlignmentConfig, rank: int = 0, world: int = 1):
        self.rows, self.taps, self.rank = rows, taps, rank
        self.assemble, self.per_rank = Assembly.of(config, rank), config.training.rows
        self.packs = packs_of(rows, config.data)
        lengths = [sum(len(rows[index].ids) for index in pack) for pack in self.packs]
        self.order = Order(lengths, self.per_rank * world, config.seed)

    def __getitem__(self, step: int) -> Batch:
        packs = tuple(tuple(self.packs[number]) for number in self._chosen(step))
        epoch_ends = (step + 1) % self.order.steps_per_epoch == 0
        batch = self.assemble(step, [[self.rows[index] for index in pack] for pack in packs], epoch_ends)
        return batch._replace(taps=self.taps(batch.rows, packs) if self.taps else None, packs=packs)

    def _chosen(self, step: int) -> list[int]:
        """Numbers of the packs of this rank's step."""
        return self.order(step)[self.rank * self.per_rank :][: self.per_rank]

    def first_epoch(self) -> list[list[int]]:
        """Indices of the documents of each step of this rank, then of what the first epoch leaves over."""
        steps = [self._chosen(step) for step in range(self.order.steps_per_epoch)]
        left = sorted(set(range(len(self.packs))).difference(*steps))
        steps += [left[at : at + self.per_rank] for at in range(0, len(left), self.per_rank)]
        return [[index for number in chosen for index in self.packs[number]] for chosen in steps]
