"""Files of bounded size in a folder, each written once and named in a manifest with its checksum.

A file is finished under another name, synced, renamed, and only then entered: whatever a kill leaves is either whole or
not there. What is written are parts, by number; a file holds some of them, one behind the other. Several processes may
write into one folder: each has a file of its own, and enters it beside those of the others.
"""

import hashlib
import json
import logging
import os
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy
from filelock import FileLock

from drafter.files import Scratch, naming, sha256_of, sweep, write_json
from drafter.taps.codec import Distortion

log = logging.getLogger(__name__)
OPEN_FILES = 64
MANIFEST, CHECKED = "manifest.json", "checked.json"

Entries = dict[str, dict[str, Any]]


class Unfinished:
    """A file that is being written.

    Attributes:
        parts: part → its first record.
    """

    def __init__(self, folder: Path, record: int):
        self.record, self.bytes = record, 0
        self.parts: dict[int, int] = {}
        self.scratch = Scratch(folder / "parts")
        self.file = self.scratch.path.open("w+b")
        self._digest, self._lost = hashlib.sha256(), Distortion()

    @property
    def name(self) -> str:
        """Of the finished file: two processes can make two that begin with the same part."""
        return f"{next(iter(self.parts)):08d}-{self._digest.hexdigest()[:8]}.bin"

    def append(self, number: int, records: numpy.ndarray, distortion: Distortion) -> None:
        content = numpy.ascontiguousarray(records).data
        self.file.write(content)
        self.parts[number] = self.bytes // self.record
        self.bytes += content.nbytes
        self._digest.update(content)
        self._lost.add(distortion)

    def read(self, number: int, first: int, last: int) -> numpy.ndarray:
        """As `Shards.read`."""
        self.file.flush()
        at = (self.parts[number] + first) * self.record
        content = os.pread(self.file.fileno(), (last - first) * self.record, at)
        return numpy.frombuffer(content, numpy.uint8).reshape(-1, self.record)

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        digest, lost = self._digest.hexdigest(), asdict(self._lost)
        return {"parts": list(self.parts), "bytes": self.bytes, "sha256": digest, "lost": lost}


class Shards:
    """Parts of known sizes.

    Args:
        folder: theirs alone.
        what: what the parts depend on, for a reader's eye.
        lengths: records of each part.
        record: bytes of a record.
        bound: a file is closed once it holds so many bytes.
    Attributes:
        lock: held while the manifest changes; whoever holds it longer keeps the others from writing.
    """

    def __init__(self, folder: Path, what: dict[str, Any], lengths: list[int], record: int, bound: int):
        self.folder, self.what, self.lengths, self.record, self.bound = folder, what, lengths, record, bound
        self.files: Entries = {}
        self.places: dict[int, tuple[str, int]] = {}  # part → its file, and its first record there
        self._maps: dict[str, numpy.ndarray] = {}
        self._open: Unfinished | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "lock")
        with self.lock:
            self._open_files()

    @property
    def whole(self) -> bool:
        return len(self.places) == len(self.lengths)

    @property
    def distortion(self) -> Distortion:
        """How far the parts on disk are from the true ones."""
        total = Distortion()
        for entry in self.files.values():
            total.add(Distortion(**entry["lost"]))
        return total

    def append(self, number: int, records: numpy.ndarray, distortion: Distortion) -> None:
        """Write part `number`, uint8 [records, bytes]."""
        with naming(self.folder):
            self._open = self._open or Unfinished(self.folder, self.record)
            self._open.append(number, records, distortion)
        if self._open.bytes >= self.bound:
            self.close()

    def close(self) -> None:
        """Finish the file that is being written, if there is one."""
        done, self._open = self._open, None
        if done is None:
            return
        with naming(self.folder), self.lock:
            done.file.close()
            self.refresh()
            if done.parts.keys() <= self.places.keys():  # another process was first
                done.scratch.discard()
            else:
                done.scratch.publish(self.folder / done.name)
                self._enter(done.name, done.entry())
                self._write_manifest(self._stamps())

    def read(self, number: int, first: int, last: int) -> numpy.ndarray:
        """Records `first` to `last` of part `number`, uint8 [last - first, bytes]."""
        if self._open is not None and number in self._open.parts:
            return self._open.read(number, first, last)
        name, start = self.places[number]
        if name not in self._maps:
            if len(self._maps) >= OPEN_FILES:
                self._maps.pop(next(iter(self._maps)))
            shape = (self.files[name]["bytes"] // self.record, self.record)
            self._maps[name] = numpy.memmap(self.folder / name, dtype=numpy.uint8, mode="r", shape=shape)
        return self._maps[name][start + first : start + last]

    def refresh(self) -> None:
        """Look up what other processes entered."""
        self.files, self.places = {}, {}
        for name, entry in self._manifest().items():
            self._enter(name, entry)

    def __contains__(self, number: int) -> bool:
        return number in self.places or (self._open is not None and number in self._open.parts)

    def __getstate__(self) -> dict[str, Any]:
        """What a process needs that reads what is entered: it opens the files itself."""
        return {**self.__dict__, "_maps": {}, "_open": None, "lock": None}

    def _open_files(self) -> None:
        """Enter the files of the manifest, except damaged ones; remove what a killed process left."""
        sweep(self.folder)
        entries, stamps = self._manifest(), self._read_stamps()
        for name, entry in entries.items():
            reason = self._damage(name, entry, stamps.get(name))
            if reason:
                log.warning("taps: %s is damaged (%s); it is made again", self.folder / name, reason)
            else:
                self._enter(name, entry)
        for path in self.folder.glob("*.bin"):
            if path.name not in self.files:
                path.unlink()
        found = self._stamps()
        if self.files.keys() != entries.keys() or (found and found != stamps):
            self._write_manifest(found)

    def _enter(self, name: str, entry: dict[str, Any]) -> None:
        self.files[name] = entry
        starts = accumulate((self.lengths[part] for part in entry["parts"]), initial=0)
        self.places |= {part: (name, start) for part, start in zip(entry["parts"], starts, strict=False)}

    def _damage(self, name: str, entry: dict[str, Any], stamp: list[int] | None) -> str | None:
        """Why a file is not the one that was written, or None; hashed only where it changed since it last was."""
        path = self.folder / name
        if not path.is_file():
            return "missing"
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{size} bytes in place of {entry['bytes']}"
        if self._stamp(name) == stamp or sha256_of(path) == entry["sha256"]:
            return None
        return "its checksum differs"

    def _stamp(self, name: str) -> list[int]:
        """What changes with a file's content, at no cost."""
        found = (self.folder / name).stat()
        return [found.st_size, found.st_mtime_ns, found.st_ino]

    def _stamps(self) -> dict[str, list[int]]:
        return {name: self._stamp(name) for name in self.files}

    def _manifest(self) -> Entries:
        path = self.folder / MANIFEST
        try:
            return json.loads(path.read_text())["files"] if path.is_file() else {}
        except (ValueError, KeyError, TypeError):
            log.warning("taps: %s is damaged; what it names is made again", path)
            return {}

    def _read_stamps(self) -> dict[str, list[int]]:
        path = self.folder / CHECKED
        try:
            return json.loads(path.read_text()) if path.is_file() else {}
        except ValueError:  # the files are hashed
            return {}

    def _write_manifest(self, stamps: dict[str, list[int]]) -> None:
        """The manifest first: a file without a stamp is hashed, a stamp without a file is nothing."""
        write_json(self.folder / MANIFEST, {**self.what, "record": self.record, "files": self.files})
        write_json(self.folder / CHECKED, stamps)
