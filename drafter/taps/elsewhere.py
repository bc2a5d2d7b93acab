"""Taps out of hidden states that were made elsewhere: inference and training on different machines."""

import copy
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from drafter.data.rows import Row, Rows
from drafter.verifier import VerifierHead


class States(Protocol):
    """Gives hidden states of rows, each document by itself.

    Attributes:
        layers: those that they hold, as we count them, in their order, without the last states.
        last: what stands behind them of the verifier's last layer: `none`, `prenorm` or `postnorm`.
    """

    layers: Sequence[int]
    last: str

    def of(self, rows: Sequence[Row]) -> list[Tensor]:
        """Of each row, float [S, layers, D] with the last ones behind.

        Raises:
            ValueError: there are none, or they are not what they should be; one line.
        """
        ...

    def where(self, row: Row) -> str:
        """What names a row's states in an error."""
        ...

    def close(self) -> None:
        """No more are asked for."""


class TapsElsewhere:
    """Taps of rows, out of their hidden states.

    Args:
        verifier: what they were made with; its body need not be here.
        rows: of training.
        tap_layers: as the drafter counts them.
        final: give `Verifier.states` in place of its taps.
        dtype: of the taps.
    Raises:
        ValueError: the states lack a tap layer, or the last states where they are needed.
    """

    ahead: ClassVar[bool] = True

    def __init__(
        self,
        states: States,
        verifier: VerifierHead,
        rows: Sequence[Row],
        tap_layers: Sequence[int],
        final: bool = False,
        dtype: torch.dtype | None = None,
    ):
        self.states, self.rows, self.tap_layers, self.final = states, rows, list(tap_layers), final
        self.width, self.dtype = int(verifier.config.hidden_size), dtype or verifier.dtype
        absent = [layer for layer in self.tap_layers if layer not in states.layers]
        if absent:
            raise ValueError(
                f"drafter.tap_layers={self.tap_layers}: the hidden states hold layers {list(states.layers)}, counted "
                f"from 0, and lack {absent}; name what they hold (data.tap_files.layers, numbering), or tap those"
            )
        self._columns = [list(states.layers).index(layer) for layer in self.tap_layers]
        if final and states.last == "none":
            raise ValueError(
                "data.tap_files.last='none': losses on the verifier's law, or its labels, need the last states; have "
                "the engine write them, and say prenorm or postnorm"
            )
        self._norm = copy.deepcopy(verifier.norm).to("cpu", self.dtype) if states.last == "prenorm" else None

    def __call__(self, rows: Rows, packs: Sequence[Sequence[int]]) -> Tensor:
        """As `TapSource`.

        Raises:
            ValueError: what `States.of` raises, before the step is trained.
        """
        return self._joined(packs)

    def padded(self, indices: Sequence[int]) -> Tensor:
        """Taps of some rows, right-padded with zeros, [B, S, T*D]."""
        return self._joined([[index] for index in indices])

    def _joined(self, packs: Sequence[Sequence[int]]) -> Tensor:
        """Taps of packs of rows, one row behind the other, right-padded with zeros, [B, S, T*D]."""
        indices = [index for pack in packs for index in pack]
        made = dict(zip(indices, self.states.of([self.rows[index] for index in indices]), strict=True))
        joined = [torch.cat([self.taps(made[index]) for index in pack]) for pack in packs]
        return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)

    def taps(self, states: Tensor) -> Tensor:
        """States [S, layers, D] of a row as taps [S, T*D], or with the last state, normed, beside them."""
        taps = states[:, self._columns].flatten(1).to(self.dtype)
        return torch.cat([taps, self.last(states)], dim=-1) if self.final else taps

    def last(self, states: Tensor) -> Tensor:
        """The last of states [S, layers, D], ready for the head, [S, D]."""
        last = states[:, -1].to(self.dtype)
        with torch.inference_mode():
            return last if self._norm is None else self._norm(last).clone()

    def close(self) -> None:
        self.states.close()
