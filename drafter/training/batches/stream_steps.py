"""Batches of rows that are read from disk as training goes on."""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from torch.utils.data import IterableDataset, get_worker_info

from drafter.answers import Answer
from drafter.config import AlignmentConfig
from drafter.data.order import groups
from drafter.data.rows import Row
from drafter.data.stream import Place, Stream, buffers
from drafter.training.batches.assembly import Assembly, Batch
from drafter.training.batches.steps import packs_of

Places = Mapping[int, tuple[int, ...]]  # reader → where it stands


class StreamSteps(IterableDataset[Batch]):
    """A rank's batches without end, from batch number `first` on; its worker processes take turns.

    Args:
        make: where an answer stands, and the answer → a row, or None for what is not trained on.
        rank, world: which of how many ranks this one is.
        first: number of the first batch.
        places: where readers stood before it; those that are missing start anew.
    """

    def __init__(
        self,
        stream: Stream,
        make: Callable[[str, Answer], Row | None],
        config: AlignmentConfig,
        rank: int = 0,
        world: int = 1,
        first: int = 0,
        places: Places | None = None,
    ):
        self.stream, self.make, self.rank, self.first, self.places = stream, make, rank, first, places or {}
        self.assemble, self.data, self.per_rank = Assembly.of(config), config.data, config.training.rows
        self.workers = max(1, config.training.workers)
        self.readers = readers(config, world)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        number = self.first + (info.id if info else 0)  # worker i gives batches first + i, first + i + workers, ...
        reader = self.rank * self.workers + number % self.workers
        for packs, place, epoch_ends in self._batches(reader):
            yield self.assemble(number, packs, place.epoch, epoch_ends)._replace(place=(reader, *place))
            number += self.workers

    def _batches(self, reader: int) -> Iterator[tuple[list[list[Row]], Place, bool]]:
        """A reader's batches from where it stands on, with where it stands behind each."""
        start = Place(*self.places.get(reader, ()))
        done = start.batches
        filled = buffers(self.stream, self.make, reader, self.readers, self.data.shuffle_buffer, start)
        for begin, rows, last in filled:
            draw = random.Random(f"{self.assemble.seed} {reader} {begin.epoch} {begin.row}")
            packs = packs_of(rows, self.data)
            widths = [sum(len(rows[index].ids) for index in members) for members in packs]
            steps = groups(widths, draw.sample(range(len(packs)), len(packs)), self.per_rank, draw)
            for number, chosen in islice(enumerate(steps, start=1), done, None):
                members = [[rows[index] for index in packs[each]] for each in chosen]
                yield members, begin._replace(batches=number), last and number == len(steps)
            done = 0
            rows.clear()  # before the next buffer fills: one of them is in memory at a time


def readers(config: AlignmentConfig, world: int) -> int:
    """How many processes read parts of the data."""
    return world * max(1, config.training.workers)
