"""Taps that an engine wrote into files, a file for each row: inference and training on different machines."""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor

from drafter.config.tap_files import TapFilesConfig
from drafter.data.rows import Row, Rows
from drafter.taps.states import read_states, token_ids
from drafter.verifier import Verifier

CHECKED_ROWS = 3
TOLERANCE = 0.1  # of a state's norm: engines round otherwise, another layer is off by a multiple of this


class TapFiles:
    """Taps out of files of hidden states, found by the token ids that they hold.

    A few rows are compared with what the verifier here computes, so that layers counted otherwise are found at once.

    Args:
        settings: where they are, and which layers they hold.
        verifier: what the files were made with; its dtype is that of the taps.
        rows: of training; each must have its file.
        tap_layers: as the drafter counts them.
        final: give `Verifier.states` in place of its taps.
    Raises:
        ValueError: the files do not hold a tap layer, the last states where they are needed, or a row; or what they
            hold is another layer's; one line.
    """

    ahead: ClassVar[bool] = True

    def __init__(
        self,
        settings: TapFilesConfig,
        verifier: Verifier,
        rows: Sequence[Row],
        tap_layers: Sequence[int],
        final: bool = False,
    ):
        self.settings, self.rows, self.tap_layers, self.final = settings, rows, list(tap_layers), final
        self.width, self.dtype = int(verifier.config.hidden_size), verifier.dtype
        offset = 1 if settings.numbering == "vllm" else 0
        held = [layer - offset for layer in settings.layers] if settings.layers else self.tap_layers
        absent = [layer + offset for layer in self.tap_layers if layer not in held]
        if absent:
            raise ValueError(
                f"data.tap_files.layers={settings.layers}: lacks the tap layers {absent} ({settings.numbering} "
                "numbering); name what the files hold, or set drafter.tap_layers"
            )
        self.columns = [held.index(layer) for layer in self.tap_layers]
        self.layers = len(held) + (settings.last != "none")
        if final and settings.last == "none":
            raise ValueError(
                "data.tap_files.last='none': losses on the verifier's law, or its labels, need the last states; have "
                "the engine write them, and say prenorm or postnorm"
            )
        self._norm = copy.deepcopy(verifier.norm).cpu() if final and settings.last == "prenorm" else None
        found = sorted(Path(settings.path or "").rglob("*.safetensors"))
        self._files = {_digest(token_ids(path)): path for path in found}
        missing = [row for row in rows if _digest(row.ids) not in self._files]
        if missing:
            raise ValueError(
                f"data.tap_files.path={settings.path!r}: {len(missing)} of {len(rows)} rows have no file, the first of "
                f"{missing[0].source!r} ({len(missing[0].ids)} tokens); write them, or set data.taps"
            )
        for row in rows[:CHECKED_ROWS]:
            self._compare(row, verifier)

    def __call__(self, rows: Rows, packs: Sequence[Sequence[int]]) -> Tensor:
        """As `TapSource`.

        Raises:
            ValueError: a file is missing, or not what it should be; one line that names it, before the step is trained.
        """
        joined = [torch.cat([self.of(self.rows[index].ids) for index in indices]) for indices in packs]
        return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)

    def of(self, ids: Sequence[int]) -> Tensor:
        """Taps of one row, [S, T*D], or with the last state beside them."""
        states = read_states(self._file(ids), ids, self.layers, self.width)
        taps = states[:, self.columns].flatten(1).to(self.dtype)
        if not self.final:
            return taps
        last = states[:, -1].to(self.dtype)
        with torch.inference_mode():
            last = self._norm(last).clone() if self._norm is not None else last
        return torch.cat([taps, last], dim=-1)

    def close(self) -> None:
        """It keeps nothing."""

    def _compare(self, row: Row, verifier: Verifier) -> None:
        """Compare a row's states with the verifier's own, layer by layer."""
        ids = torch.tensor([row.ids], device=verifier.device)
        every = list(range(verifier.num_layers - 1))
        true = verifier.states(ids, every)[0].float().cpu().unflatten(-1, (-1, self.width))  # [S, layers, D]
        found = self.of(row.ids).float().unflatten(-1, (-1, self.width))
        names = [*self.tap_layers, -1][: found.shape[1]]
        for at, layer in enumerate(names):
            off = (found[:, at, None] - true).norm(dim=(0, 2)) / true.norm(dim=(0, 2))  # [layers]
            if not off[layer] < TOLERANCE:
                best = int(off.argmin())
                like = f"; it is layer {best}'s" if off[best] < TOLERANCE else ""
                what = "the last states" if layer < 0 else f"layer {layer}"
                raise ValueError(
                    f"data.tap_files: {self._file(row.ids)}: {what} differs from the verifier's by {off[layer]:.2g} of "
                    f"its norm{like}; check layers, numbering and last, and whether it is this verifier's"
                )

    def _file(self, ids: Sequence[int]) -> Path:
        return self._files[_digest(ids)]


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(numpy.asarray(ids, dtype=numpy.int64).tobytes()).digest()[:16]
