"""Hidden states that an engine wrote into files, a file for each row."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy
from torch import Tensor

from drafter.config.tap_files import TapFilesConfig
from drafter.data.rows import Row
from drafter.taps.states import read_states, token_ids


class StateFiles:
    """Files of a folder, found by the token ids that they hold.

    Args:
        settings: where they are, and which layers they hold.
        tap_layers: what they hold where the settings do not say.
        width: of a state.
    """

    def __init__(self, settings: TapFilesConfig, tap_layers: Sequence[int], width: int):
        offset = 1 if settings.numbering == "vllm" else 0
        self.layers: Sequence[int] = (
            [layer - offset for layer in settings.layers] if settings.layers else list(tap_layers)
        )
        self.path, self.last, self.width = settings.path, settings.last, width
        self._count = len(self.layers) + (self.last != "none")
        self._files = written(Path(settings.path or ""))

    def require(self, rows: Sequence[Row]) -> None:
        """Raise a ValueError unless each row has its file."""
        missing = [row for row in rows if key_of(row.ids) not in self._files]
        if missing:
            raise ValueError(
                f"data.tap_files.path={self.path!r}: {len(missing)} of {len(rows)} rows have no file, the first of "
                f"{missing[0].source!r} ({len(missing[0].ids)} tokens); write them, or set data.taps"
            )

    def of(self, rows: Sequence[Row]) -> list[Tensor]:
        """As `States`."""
        self.require(rows)
        return [read_states(self._files[key_of(row.ids)], row.ids, self._count, self.width) for row in rows]

    def where(self, row: Row) -> str:
        return str(self._files[key_of(row.ids)])

    def close(self) -> None:
        """It keeps nothing."""


def written(folder: Path) -> dict[bytes, Path]:
    """The files of hidden states in a folder and its folders, by the digest of their ids.

    Raises:
        ValueError: one of them is something else.
    """
    return {key_of(token_ids(path)): path for path in sorted(folder.rglob("*.safetensors"))}


def key_of(ids: Sequence[int]) -> bytes:
    """A short hash of token ids."""
    return hashlib.sha256(numpy.asarray(ids, dtype=numpy.int64).tobytes()).digest()[:16]
