"""Batches by number, made beside the step or by processes of their own."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler


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

    Lightning takes a loader without these two methods for one that starts anew, and warns of it on every resumption.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: what it is made of knows the first batch."""


def loader(batches: Dataset, first: int, last: int, workers: int = 0) -> Loader:
    """Batches number `first` to `last` of a run, made by so many processes beside this one (0: by this one).

    Args:
        batches: a map from their numbers, or a stream that begins with `first`.
    """
    sampler = None if isinstance(batches, IterableDataset) else Numbers(first, last)
    return Loader(batches, sampler=sampler, batch_size=None, num_workers=workers)
