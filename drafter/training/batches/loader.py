"""Batches by number, made beside the step or by processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


class Ahead(Dataset):
    """A map of batches that makes the next few beside the step, in threads: for one that waits for others.

    Args:
        batches: a map from numbers below `last`, which may be asked by several threads at a time.
        count: batches that are made ahead.
    """

    def __init__(self, batches: Dataset, last: int, count: int):
        self.batches, self.last, self.count = batches, last, count
        self._pool = ThreadPoolExecutor(count + 1, thread_name_prefix="batches")
        self._made: dict[int, Future] = {}

    def __getitem__(self, number: int) -> Any:
        for each in range(number, min(number + self.count + 1, self.last)):
            if each not in self._made:
                self._made[each] = self._pool.submit(self.batches.__getitem__, each)
        return self._made.pop(number).result()


def loader(
    batches: Dataset,
    first: int,
    last: int,
    workers: int = 0,
    accumulate: int = 1,
    join: Join = lambda step: step,
    ahead: int = 0,
) -> Loader:
    """Batches number `first` to `last` of a run, made by so many processes beside this one (0: by this one).

    Args:
        batches: a map from their numbers, or a stream that begins with `first`.
        accumulate, join: as in `Loader`.
        ahead: batches of a map that threads make beside the step; see `Ahead`.
    """
    if ahead:
        batches = Ahead(batches, last, ahead)
    sampler = None if isinstance(batches, IterableDataset) else Numbers(first, last)
    return Loader(batches, accumulate, join, sampler=sampler, num_workers=workers)
