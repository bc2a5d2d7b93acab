"""Files of bounded size in a folder, each written once and named in a manifest with its checksum.

A file is finished under another name, synced, renamed, and only then entered: whatever a kill leaves is either whole or
not there. What is written are parts, by number; a file holds some of them, one behind the other.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy

from drafter.files import sha256_of, write_json
from drafter.taps.codec import Distortion

log = logging.getLogger(__name__)
OPEN_FILES = 64


class Shards:
    """Parts of known sizes.

    Args:
        folder: theirs alone.
        what: what the parts depend on, for a reader's eye.
        lengths: records of each part.
        record: bytes of a record.
        bound: a file is closed once it holds so many bytes.
    """

    def __init__(self, folder: Path, what: dict[str, Any], lengths: list[int], record: int, bound: int):
        self.folder, self.what, self.lengths, self.record, self.bound = folder, what, lengths, record, bound
        self.files: dict[str, dict[str, Any]] = {}
        self.places: dict[int, tuple[str, int]] = {}  # part → its file, and its first record there
        self.distortion = Distortion()
        self._maps: dict[str, numpy.ndarray] = {}
        self._open: BinaryIO | None = None
        self._parts: list[int] = []
        self._digest = hashlib.sha256()
        self._lost = Distortion()
        for name, entry in self._read_manifest().items():
            reason = self._damage(folder / name, entry)
            if reason:
                log.warning("taps: %s is damaged (%s); it is made again", folder / name, reason)
            else:
                self._enter(name, entry)

    @property
    def whole(self) -> bool:
        return len(self.places) == len(self.lengths)

    def append(self, number: int, records: numpy.ndarray, distortion: Distortion) -> None:
        """Write part `number`, uint8 [records, bytes]; it can be read once its file is closed."""
        if self._open is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open = self._scratch.open("wb")
        content = numpy.ascontiguousarray(records).data
        self._open.write(content)
        self._digest.update(content)
        self._parts.append(number)
        self._lost.add(distortion)
        if self._open.tell() >= self.bound:
            self.close()

    def close(self) -> None:
        """Finish the file that is being written, if there is one."""
        if self._open is None:
            return
        size = self._open.tell()
        self._open.flush()
        os.fsync(self._open.fileno())
        self._open.close()
        name = f"{self._parts[0]:08d}.bin"
        self._scratch.replace(self.folder / name)
        entry = {"parts": self._parts, "bytes": size, "sha256": self._digest.hexdigest(), "lost": asdict(self._lost)}
        self._enter(name, entry)
        self._write_manifest()
        self._open, self._parts, self._digest, self._lost = None, [], hashlib.sha256(), Distortion()

    def read(self, number: int, first: int, last: int) -> numpy.ndarray:
        """Records `first` to `last` of part `number`, uint8 [last - first, bytes]."""
        if number in self._parts:
            self.close()
        name, start = self.places[number]
        if name not in self._maps:
            if len(self._maps) >= OPEN_FILES:
                self._maps.pop(next(iter(self._maps)))
            shape = (self.files[name]["bytes"] // self.record, self.record)
            self._maps[name] = numpy.memmap(self.folder / name, dtype=numpy.uint8, mode="r", shape=shape)
        return self._maps[name][start + first : start + last]

    def __contains__(self, number: int) -> bool:
        return number in self.places or number in self._parts

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a process that gets a copy opens the files itself."""
        return {**self.__dict__, "_maps": {}, "_open": None, "_digest": None}

    @property
    def _scratch(self) -> Path:
        return self.folder / "unfinished"

    def _enter(self, name: str, entry: dict[str, Any]) -> None:
        self.files[name] = entry
        starts = accumulate((self.lengths[part] for part in entry["parts"]), initial=0)
        self.places |= {part: (name, start) for part, start in zip(entry["parts"], starts, strict=False)}
        self.distortion.add(Distortion(**entry["lost"]))

    def _damage(self, path: Path, entry: dict[str, Any]) -> str | None:
        """Why a file is not the one that was written, or None."""
        if not path.is_file():
            return "missing"
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{size} bytes in place of {entry['bytes']}"
        return None if sha256_of(path) == entry["sha256"] else "its checksum differs"

    def _read_manifest(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "manifest.json"
        return json.loads(path.read_text())["files"] if path.is_file() else {}

    def _write_manifest(self) -> None:
        write_json(self.folder / "manifest.json", {**self.what, "record": self.record, "files": self.files})
