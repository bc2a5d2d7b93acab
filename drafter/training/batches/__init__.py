"""What each training step sees: batches by number, dealt out over ranks and over the workers of each.

They come of rows in memory (`Steps`) or, for data that do not fit there, from disk as training goes on (`Streamed`).
"""

from typing import Any

from torch.utils.data import DataLoader

from drafter.training.batches.assembly import Assembly, Batch
from drafter.training.batches.steps import Numbers, Steps, packs_of
from drafter.training.batches.streamed import Streamed, readers

__all__ = ["Assembly", "Batch", "Steps", "Streamed", "loader", "packs_of", "readers"]


class Loader(DataLoader):
    """A DataLoader that goes on where it is told to, and says so.

    Lightning takes a loader without these two methods for one that starts anew, and warns of it on every resumption.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: what it is made of knows the first batch."""


def loader(batches: Steps | Streamed, first: int, last: int, workers: int = 0) -> Loader:
    """Batches number `first` to `last` of a run, made by so many processes beside this one (0: by this one)."""
    sampler = Numbers(first, last) if isinstance(batches, Steps) else None  # a stream is made with its first number
    return Loader(batches, sampler=sampler, batch_size=None, num_workers=workers)
