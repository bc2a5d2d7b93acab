"""Which rows a step sees: a function of (seed, step) alone, so a resumed run sees what an undisturbed one would."""

import random
from collections.abc import Sequence


def check_enough(rows: int, per_step: int) -> None:
    """Raise a ValueError where `rows` do not fill a single step of `per_step`."""
    if rows < per_step:
        raise ValueError(f"training.rows: a step takes {per_step} rows, the data have {rows}; lower it")


def groups(lengths: Sequence[int], order: list[int], size: int, draw: random.Random) -> list[list[int]]:
    """Cut shuffled rows into steps of `size`, rows of similar length together, and shuffle the steps.

    Where `size` does not divide the rows, steps are smaller, by a row more or less.
    """
    pool = 16 * size  # sorted within pools only: order stays random, padding stays small
    near = [i for at in range(0, len(order), pool) for i in sorted(order[at : at + pool], key=lengths.__getitem__)]
    count = -(-len(near) // size)
    steps = [near[len(near) * step // count : len(near) * (step + 1) // count] for step in range(count)]
    draw.shuffle(steps)
    return steps


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
        self._epochs: dict[int, list[list[int]]] = {}

    def __call__(self, step: int) -> list[int]:
        """Indices of the rows of `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = self._shuffle(epoch)
        return self._epochs[epoch][place]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self.seed} {epoch}")
        order = draw.sample(range(len(self.lengths)), self.steps_per_epoch * self.per_step)
        return groups(self.lengths, order, self.per_step, draw)
