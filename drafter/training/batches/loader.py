"""Batches by number, made beside the step or by processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

Join = Callable[[Sequence[Any]], Sequence[Any]]


class Numbers(Sampler[int]):
    """`first` to `last`, of a length counted from 0: a resumed trainer counts the batches before `first` too."""

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last


class Loader(DataLoader):
    """A DataLoader that goes on where it is told to, and says so.

    Lightning takes a loader without `state_dict` for one that starts anew, and warns of it on every resumption.

    Args:
        join: gets the `accumulate` batches of a step at once, and gives them as they are to be seen.
    """

    def __init__(self, batches: Dataset, accumulate: int, join: Join, **options: Any):
        super().__init__(batches, batch_size=None, pin_memory=torch.cuda.is_available(), **options)
        self.accumulate, self.join = accumulate, join

    def __iter__(self) -> Any:
        batches = super().__iter__()
        while step := list(islice(batches, self.accumulate)):
            yield from self.join(step)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: what it is made of knows the first batch."""


def loader(
    batches: Dataset, first: int, last: int, workers: int = 0, accumulate: int = 1, join: Join = lambda step: step
) -> Loader:
    """Batches number `first` to `last` of a run, made by so many processes beside this one (0: by this one).

    Args:
        batches: a map from their numbers, or a stream that begins with `first`.
        accumulate, join: as in `Loader`.
    """
    sampler = None if isinstance(batches, IterableDataset) else Numbers(first, last)
    return Loader(batches, accumulate, join, sampler=sampler, num_workers=workers)
