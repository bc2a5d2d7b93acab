"""The cache of taps: which rows the verifier sees together, what that takes on disk, and what is read back."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from drafter.config import CacheConfig
from drafter.data.rows import Row, Rows, pad
from drafter.taps.codec import Codec
from drafter.taps.shards import Shards
from drafter.verifier import Verifier

TOKENS_PER_PASS = 1024
ON_AN_ACCELERATOR = 8192  # fewer leave it waiting for the host
SMALLEST_FILE, LARGEST_FILE, FILES = 1 << 26, 1 << 30, 256


class TapCache:
    """Taps of `rows`: all made at once, from where a killed run left off; or each when it is first asked for.

    Args:
        verifier: computes the taps, in its own dtype.
        folder: holds one sub-folder per (verifier, tap layers, rows, passes, dtypes).
        on_progress: called with rows done and rows in all.
        final: keep `Verifier.states` in place of its taps: D columns more, for losses on the verifier's law.
        settings: how exactly they are kept, and how much of the disk they may take.
        passes: indices of the rows that the verifier sees together; taps are then made when first asked for, a pass at
            a time, so that they do not depend on who asks when. None: rows of similar length, all at once.
    Raises:
        ValueError: they would take more than `settings.max_gb`, or the disk has no room.
    """

    ahead: ClassVar[bool] = True

    def __init__(
        self,
        verifier: Verifier,
        rows: Sequence[Row],
        tap_layers: Sequence[int],
        folder: Path,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        final: bool = False,
        settings: CacheConfig | None = None,
        passes: Sequence[Sequence[int]] | None = None,
    ):
        settings = settings or CacheConfig()
        self.verifier, self.rows, self.tap_layers, self.final = verifier, rows, list(tap_layers), final
        name = str(verifier.dtype).removeprefix("torch.") if settings.dtype == "auto" else settings.dtype
        self.codec = Codec(name, len(tap_layers) + final, verifier.config.hidden_size, verifier.dtype)
        self.passes = passes_by_length(rows, tokens_per_pass(verifier.device)) if passes is None else passes
        self.places: dict[int, tuple[int, int]] = {}  # row → its pass, and its first token there
        for number, indices in enumerate(self.passes):
            at = 0
            for index in indices:
                self.places[index] = (number, at)
                at += len(rows[index].ids)
        lengths = [sum(len(rows[index].ids) for index in indices) for indices in self.passes]
        self.bytes = sum(lengths) * self.codec.bytes_per_token
        what = {
            "verifier": verifier.fingerprint(),
            "tap_layers": self.tap_layers,
            "final": final,
            "dtype": str(verifier.dtype),
            "stored": name,
            "rows": _digest(rows, self.passes),
        }
        self.folder = folder / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]
        bound = min(max(self.bytes // FILES, SMALLEST_FILE), LARGEST_FILE)
        self._check_size(settings)
        self.shards = Shards(self.folder, what, lengths, self.codec.bytes_per_token, bound)
        if passes is None and not self.shards.whole:
            with self.shards.lock:  # of several processes, one makes them and the others find them made
                self.shards.refresh()
                self._fill(on_progress)

    @property
    def dtype(self) -> torch.dtype:
        return self.codec.dtype

    def __getitem__(self, index: int) -> Tensor:
        """Taps of one row, [S, T*D]."""
        number, start = self.places[index]
        if number not in self.shards:
            self._make(number)
        return self.codec.decode(self.shards.read(number, start, start + len(self.rows[index].ids)))

    def __call__(self, rows: Rows, packs: Sequence[Sequence[int]]) -> Tensor:
        """Taps of a batch by the numbers of its documents, as `TapSource` asks."""
        return self.packed(packs)

    def padded(self, indices: Sequence[int]) -> Tensor:
        """Taps of some rows, right-padded with zeros, [B, S, T*D]."""
        return self.packed([[index] for index in indices])

    def packed(self, packs: Sequence[Sequence[int]]) -> Tensor:
        """Taps of rows of several documents each, right-padded with zeros, [B, S, T*D]."""
        joined = [torch.cat([self[index] for index in indices]) for indices in packs]
        return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)

    def close(self) -> None:
        """Put what was made since on disk."""
        self.shards.close()

    def __getstate__(self) -> dict[str, Any]:
        """For a process that reads what is made: without the verifier where it is no longer needed."""
        return {**self.__dict__, "verifier": None if self.shards.whole else self.verifier}

    def _fill(self, on_progress: Callable[[int, int], None]) -> None:
        done = 0
        try:
            for number, indices in enumerate(self.passes):
                if number in self.shards:
                    self.shards.close()  # files begin and end where an undisturbed run's do
                else:
                    self._make(number)
                done += len(indices)
                on_progress(done, len(self.rows))
        finally:  # what was made by then need not be made again
            self.shards.close()

    def _make(self, number: int) -> None:
        """Let the verifier make a pass's taps."""
        rows = [self.rows[index] for index in self.passes[number]]
        read = self.verifier.states if self.final else self.verifier.taps
        taps = read(pad(rows).ids.to(self.verifier.device), self.tap_layers).cpu()  # [B, S, T*D]
        taps = torch.cat([each[: len(row.ids)] for each, row in zip(taps, rows, strict=True)])  # [N, T*D]
        records = self.codec.encode(taps)
        self.shards.append(number, records, self.codec.distortion(taps, records))

    def _check_size(self, settings: CacheConfig) -> None:
        """Refuse what is too much before anything is written."""
        missing = self.bytes - sum(path.stat().st_size for path in self.folder.glob("*.bin"))
        size, where = f"{self.bytes / 1e9:.3g} GB", self.folder.parent
        if missing > 0 and self.bytes > settings.max_gb * 1e9 and not settings.confirm:
            int8 = Codec("int8", self.codec.taps, self.codec.width, self.codec.dtype).bytes_per_token
            smaller = self.bytes / 1e9 * int8 / self.codec.bytes_per_token
            less = "" if self.codec.name == "int8" else f"data.cache.dtype=int8 ({smaller:.3g} GB), "
            raise ValueError(
                f"data.cache.max_gb={settings.max_gb:g}: taps of {len(self.rows)} rows take {size} in {where}; "
                f"continue with data.cache.confirm=true, or choose {less}a lower data.max_rows or data.taps=online"
            )
        existing = next(folder for folder in (where, *where.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if missing > free:
            raise ValueError(
                f"data.taps='cached': needs {size} in {where}, {free / 1e9:.3g} GB are free; set BLOCK_DRAFTER_CACHE "
                "to another disk, lower data.max_rows, or set data.taps=online"
            )


def tokens_per_pass(device: torch.device) -> int:
    """Of the verifier, with padding: as many as keep the device busy."""
    return TOKENS_PER_PASS if device.type == "cpu" else ON_AN_ACCELERATOR


def passes_by_length(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Rows that the verifier sees together: of similar length, some `tokens` with padding."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))  # the first of a pass is its widest
    passes, done = [], 0
    while done < len(rows):
        count = max(1, tokens // len(rows[order[done]].ids))
        passes.append(order[done : done + count])
        done += count
    return passes


def _digest(rows: Sequence[Row], passes: Sequence[Sequence[int]]) -> str:
    found = hashlib.sha256()
    for indices in passes:
        found.update(f"{len(indices)};".encode())
        for index in indices:
            found.update(numpy.asarray([index, len(rows[index].ids), *rows[index].ids], dtype=numpy.int64).tobytes())
    return found.hexdigest()
