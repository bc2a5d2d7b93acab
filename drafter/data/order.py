"""Which rows a step sees: a function of (seed, step) alone, so a resumed run sees what an undisturbed one would."""

import random
from functools import lru_cache


def check_enough(rows: int, per_step: int) -> None:
    """Raise a ValueError where `rows` do not fill a single step of `per_step`."""
    if rows < per_step:
        raise ValueError(f"training.rows: a step takes {per_step} rows, the data have {rows}; lower it")


class Order:
    """Which rows each step sees: shuffled every epoch, rows of similar length together, none twice in an epoch.

    Args:
        lengths: tokens of each row.
        per_step: rows of one step over all ranks; what an epoch leaves over is dropped, other rows each epoch.
    Raises:
        ValueError: fewer rows than one step takes.
    """

    def __init__(self, lengths: list[int], per_step: int, seed: int):
        self.steps_per_epoch = len(lengths) // per_step
        check_enough(len(lengths), per_step)
        self.lengths, self.per_step, self.seed = lengths, per_step, seed
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, step: int) -> list[int]:
        """Indices of the rows of `step`, counted from 0."""
        return self._epoch(step // self.steps_per_epoch)[step % self.steps_per_epoch]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self.seed} {epoch}")
        order = draw.sample(range(len(self.lengths)), self.steps_per_epoch * self.per_step)
        pool = 16 * self.per_step  # sorted within pools only: order stays random, padding stays small
        grouped = [i for at in range(0, len(order), pool) for i in sorted(order[at : at + pool], key=self._length)]
        steps = [grouped[at : at + self.per_step] for at in range(0, len(grouped), self.per_step)]
        draw.shuffle(steps)
        return steps

    def _length(self, index: int) -> int:
        return self.lengths[index]
