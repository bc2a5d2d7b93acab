"""Batches of text rows: each decided by its number alone."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from drafter.config import FittingConfig, require
from drafter.training.batches.loader import loader
from drafter.training.fitting import Batches


class TextBatch(NamedTuple):
    """Rows of a micro-step; `number` counts micro-steps, `places` rows, from the run's first."""

    number: int
    ids: Tensor  # [B, S]
    places: list[int]


class TextSteps(Dataset[TextBatch]):
    """Micro-step i of a rank, a pure function of the seed, i and the rank: a resumed run sees the same ones.

    Which rows a step has, and where each stands in the run, does not depend on how ranks and micro-steps share it.

    Args:
        rows: ids, [R, S]; every epoch has an order of its own, and leaves out what fills no step.
        per_rank: rows of a micro-step.
        accumulate: micro-steps of a step.
    """

    def __init__(self, rows: Tensor, per_rank: int, seed: int, rank: int = 0, world: int = 1, accumulate: int = 1):
        self.rows, self.per_rank, self.seed, self.rank, self.world = rows, per_rank, seed, rank, world
        self.per_epoch = len(rows) // (per_rank * world * accumulate) * accumulate
        self._order: tuple[int, Tensor] = (-1, torch.zeros(0))

    def __getitem__(self, number: int) -> TextBatch:
        epoch, step = divmod(number, self.per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(len(self.rows), generator=generator)
        together = self.per_rank * self.world
        chosen = self._order[1][step * together + self.rank :: self.world][: self.per_rank]
        places = range(number * together + self.rank, (number + 1) * together, self.world)
        return TextBatch(number, self.rows[chosen].long(), list(places))


class TextFeed(Batches):
    """Text rows as the trainer asks for them.

    Raises:
        ValueError: there are fewer rows than a step takes.
    """

    def __init__(self, rows: Tensor, settings: FittingConfig, seed: int, world: int = 1):
        super().__init__()
        self.rows, self.settings, self.seed, self.world = rows, settings, seed, world
        needed = settings.rows * world * settings.accumulate
        remedy = f"there are {len(rows)} training rows, a step takes {needed}; lower it"
        require(len(rows) >= needed, "training.rows", settings.rows, remedy)

    @property
    def steps_per_epoch(self) -> int:
        return self._steps(0).per_epoch // self.settings.accumulate

    def loader(self, rank: int, first: int, last: int) -> DataLoader:
        return loader(self._steps(rank), first, last, self.settings.workers)

    def _steps(self, rank: int) -> TextSteps:
        return TextSteps(self.rows, self.settings.rows, self.seed, rank, self.world, self.settings.accumulate)
