"""What each training step sees: batches by number, dealt out over ranks and over the workers of each."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from drafter.blocks import drafted, sample_anchors
from drafter.config import Config, DataConfig
from drafter.data.order import Order
from drafter.data.packing import pack, pad_packed
from drafter.data.rows import Row, Rows, pad
from drafter.data.taps import TapCache


class Batch(NamedTuple):
    """Rows with their taps (None: made in the step) and blocks; `number` counts batches from the run's first."""

    number: int
    rows: Rows
    taps: Tensor | None  # [B, S, T*D], or `Verifier.states`
    anchors: Tensor  # [B, A]
    used: Tensor  # [B, A]
    drafted: int = 0  # supervised tokens that some slot predicts
    supervised: int = 0
    epoch_ends: bool = False


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
    def of(cls, config: Config, rank: int) -> "Assembly":
        return cls(config.seed, rank, config.training.anchors, config.drafter.block_size, config.data.packing)

    def __call__(
        self, number: int, packs: Sequence[Sequence[Row]], taps: Tensor | None = None, epoch_ends: bool = False
    ) -> Batch:
        """Batch `number` of the rows' documents; without packing, one to a row."""
        rows = pad_packed(packs) if self.packing else pad([row for pack in packs for row in pack])
        generator = torch.Generator()
        generator.manual_seed(random.Random(f"{self.seed} {number} {self.rank}").getrandbits(63))
        anchors, used = sample_anchors(rows.supervised, self.anchors, generator, rows.documents)
        seen = drafted(rows.supervised, anchors, used, self.block_size, rows.documents)
        return Batch(number, rows, taps, anchors, used, int(seen.sum()), int(rows.supervised.sum()), epoch_ends)


def packs_of(rows: Sequence[Row], data: DataConfig) -> list[list[int]]:
    """Indices of the documents of each row that a step is fed."""
    lengths = [len(row.ids) for row in rows]
    return pack(lengths, data.sequence_length) if data.packing else [[index] for index in range(len(rows))]


class Steps(Dataset[Batch]):
    """Batch number i of a run, a pure function of the seed, i and the rank: a resumed run sees the same ones.

    Args:
        taps: cached taps of the rows, or None when the verifier makes them in each step.
        rank, world: which of how many ranks this one is.
    """

    def __init__(self, rows: list[Row], taps: TapCache | None, config: Config, rank: int = 0, world: int = 1):
        self.rows, self.taps, self.rank = rows, taps, rank
        self.assemble, self.per_rank = Assembly.of(config, rank), config.training.rows
        self.packs = packs_of(rows, config.data)
        lengths = [sum(len(rows[index].ids) for index in pack) for pack in self.packs]
        self.order = Order(lengths, self.per_rank * world, config.seed)

    def __getitem__(self, step: int) -> Batch:
        packs = [self.packs[number] for number in self._chosen(step)]
        taps = self.taps.packed(packs) if self.taps else None
        epoch_ends = (step + 1) % self.order.steps_per_epoch == 0
        return self.assemble(step, [[self.rows[index] for index in pack] for pack in packs], taps, epoch_ends)

    def _chosen(self, step: int) -> list[int]:
        """Numbers of the packs of this rank's step."""
        return self.order(step)[self.rank * self.per_rank :][: self.per_rank]

    def first_epoch(self) -> list[list[int]]:
        """Indices of the documents of each step of this rank, then of what the first epoch leaves over."""
        steps = [self._chosen(step) for step in range(self.order.steps_per_epoch)]
        left = sorted(set(range(len(self.packs))).difference(*steps))
        steps += [left[at : at + self.per_rank] for at in range(0, len(left), self.per_rank)]
        return [[index for number in chosen for index in self.packs[number]] for chosen in steps]


class Numbers(Sampler[int]):
    """`first` to `last`, of a length counted from 0: a resumed trainer counts the batches before `first` too."""

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last


class Loader(DataLoader):
    """A DataLoader of batches that their numbers decide: it resumes at any of them, and says so.

    Lightning takes a loader without these two methods for one that starts anew, and warns of it on every resumption.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the first number is given to `loader`."""


def loader(steps: Steps, first: int, last: int, workers: int = 0) -> Loader:
    """Batches number `first` to `last` of a run, made by so many processes beside this one (0: by this one)."""
    return Loader(steps, sampler=Numbers(first, last), batch_size=None, num_workers=workers)
