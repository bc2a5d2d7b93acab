"""Taps of rows, computed once and kept in one memory-mapped file: later epochs do not pay for the verifier."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy
import torch
from torch import Tensor

from drafter.data.rows import Row, pad
from drafter.verifier import Verifier

TOKENS_PER_PASS = 1024
NUMPY: dict[torch.dtype, numpy.dtype] = {torch.bfloat16: numpy.dtype("int16"), torch.float32: numpy.dtype("float32")}


class TapCache:
    """Taps of `rows`, [tokens, T*D] on disk, in the verifier's dtype; filled at once, from where a killed run left off.

    Args:
        verifier: computes the taps, in its own dtype.
        folder: holds one sub-folder per (verifier, tap layers, rows, dtype).
        on_progress: called with rows done and rows in all.
        final: keep `Verifier.states` in place of its taps: D columns more, for losses on the verifier's law.
    Raises:
        ValueError: the disk has no room.
    """

    def __init__(
        self,
        verifier: Verifier,
        rows: Sequence[Row],
        tap_layers: Sequence[int],
        folder: Path,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        final: bool = False,
    ):
        self.dtype = verifier.dtype
        self.width = (len(tap_layers) + final) * verifier.config.hidden_size
        self.final = final
        self.offsets = [0, *accumulate(len(row.ids) for row in rows)]
        what = [verifier.fingerprint(), list(tap_layers), str(self.dtype), [row.ids for row in rows]]
        what += ["final"] if final else []
        self.folder = folder / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]
        size = self.offsets[-1] * self.width * self.dtype.itemsize
        path, shape = self.folder / "taps.bin", (self.offsets[-1], self.width)
        whole = path.is_file() and path.stat().st_size == size
        done = self._progress() if whole else 0
        if done == 0:
            self._check_room(size)
            self.folder.mkdir(parents=True, exist_ok=True)
        mode: Literal["r", "r+", "w+"] = "r" if done == len(rows) else "r+" if whole else "w+"
        self._memory = numpy.memmap(path, dtype=NUMPY[self.dtype], mode=mode, shape=shape)
        if done < len(rows):
            self._fill(verifier, rows, tap_layers, done, on_progress)

    def __getitem__(self, index: int) -> Tensor:
        """Taps of one row, [S, T*D]."""
        part = torch.from_numpy(self._memory[self.offsets[index] : self.offsets[index + 1]].copy())
        return part.view(self.dtype)

    def padded(self, indices: Sequence[int]) -> Tensor:
        """Taps of some rows, right-padded with zeros, [B, S, T*D]."""
        return torch.nn.utils.rnn.pad_sequence([self[index] for index in indices], batch_first=True)

    def _fill(
        self,
        verifier: Verifier,
        rows: Sequence[Row],
        tap_layers: Sequence[int],
        done: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))  # the first of a pass is its widest
        while done < len(rows):
            count = max(1, TOKENS_PER_PASS // len(rows[order[done]].ids))
            batch = order[done : done + count]
            ids = pad([rows[index] for index in batch]).ids.to(verifier.device)
            read = verifier.states if self.final else verifier.taps
            taps = read(ids, tap_layers).cpu()  # [B, S, T*D]
            taps = taps.view(torch.int16) if self.dtype is torch.bfloat16 else taps
            for row, index in enumerate(batch):
                start, end = self.offsets[index], self.offsets[index + 1]
                self._memory[start:end] = taps[row, : end - start].numpy()
            done += len(batch)
            if done == len(rows) or done % 64 < count:
                self._memory.flush()
                (self.folder / "rows_done.tmp").write_text(str(done))
                (self.folder / "rows_done.tmp").replace(self.folder / "rows_done")
            on_progress(done, len(rows))

    def _progress(self) -> int:
        path = self.folder / "rows_done"
        return int(path.read_text()) if path.is_file() else 0

    def _check_room(self, size: int) -> None:
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if size > free:
            raise ValueError(
                f"data.taps='cached': needs {size / 1e9:.1f} GB in {existing}, {free / 1e9:.1f} GB are free; "
                "set BLOCK_DRAFTER_CACHE to another disk, lower data.max_rows, or set data.taps=online"
            )
