"""Where the taps of training rows come from: pick."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from drafter.data.packing import repack, unpack
from drafter.data.rows import Rows
from drafter.verifier import Verifier


class TapSource(Protocol):
    """Gives the taps of a batch: the outputs of the verifier's tapped layers, each document by itself.

    Attributes:
        ahead: whether it is asked by the processes that make batches (a disk, a server), or else within the step, on
            the device that trains (a verifier there).
    """

    ahead: ClassVar[bool]

    def __call__(self, rows: Rows, packs: Sequence[Sequence[int]]) -> Tensor:
        """Taps [B, S, T*D], or `Verifier.states`, of a batch; zeros at padding.

        Args:
            packs: of each row, the numbers of its documents among the training rows; of a stream, empty.
        """
        ...

    def close(self) -> None:
        """Training has ended; keep what is worth keeping."""


@dataclass(frozen=True)
class LocalTaps:
    """Taps that a verifier here makes in each step.

    Args:
        final: give `Verifier.states` in place of its taps.
    """

    ahead: ClassVar[bool] = False

    verifier: Verifier
    tap_layers: Sequence[int]
    final: bool = False

    def __call__(self, rows: Rows, packs: Sequence[Sequence[int]] = ()) -> Tensor:
        read = self.verifier.states if self.final else self.verifier.taps
        if rows.documents is None:
            return read(rows.ids, self.tap_layers).clone()  # one that autograd may keep
        return repack(read(unpack(rows.ids, rows.documents), self.tap_layers), rows.documents)

    def close(self) -> None:
        """It keeps nothing."""
