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
    """Micro-batch number i of a run, a pure function of the seed, i and the rank: a resumed run sees the same ones.

    The rows of an optimiser step depend on its number alone: micro-batches share them out by length, for little
    padding, and ranks one by one, so that none waits for another.

    Args:
        taps: a source that is asked ahead; None where taps are made within the step.
        rank, world: which of how many ranks this one is.
    """

    def __init__(self, rows: list[Row], taps: TapSource | None, config: AlignmentConfig, rank: int = 0, world: int = 1):
        self.rows, self.taps, self.rank, self.world = rows, taps, rank, world
        self.assemble, self.accumulate = Assembly.of(config), config.training.accumulate
        self.packs = packs_of(rows, config.data)
        lengths = [sum(len(rows[index].ids) for index in pack) for pack in self.packs]
        self.size = config.training.rows * world  # of a micro-batch, over all ranks
        self.order = Order(lengths, self.size * self.accumulate, config.seed)

    def __getitem__(self, number: int) -> Batch:
        epoch, place = divmod(number, self.order.steps_per_epoch * self.accumulate)
        packs = tuple(tuple(self.packs[pack]) for pack in self._chosen(number))
        epoch_ends = place + 1 == self.order.steps_per_epoch * self.accumulate
        batch = self.assemble(number, [[self.rows[index] for index in pack] for pack in packs], epoch, epoch_ends)
        return batch._replace(taps=self.taps(batch.rows, packs) if self.taps else None, packs=packs)

    def _chosen(self, number: int) -> list[int]:
        """Numbers of the packs of this rank's micro-batch."""
        step, part = divmod(number, self.accumulate)
        return self.order(step)[part * self.size :][: self.size][self.rank :: self.world]

    def first_epoch(self) -> list[list[int]]:
        """Indices of the documents of each micro-batch of this rank, then of what the first epoch leaves over."""
        chosen = [self._chosen(number) for number in range(self.order.steps_per_epoch * self.accumulate)]
        left = sorted(set(range(len(self.packs))).difference(*chosen))
        size = len(chosen[0])
        chosen += [left[at : at + size] for at in range(0, len(left), size)]
        return [[index for number in some for index in self.packs[number]] for some in chosen]
