"""Files and folders that are whole or not there: made beside their place, renamed to it once they are on the disk."""

import csv
import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

UNFINISHED = ".unfinished"
AT_CWD, EXCHANGE = -100, 2  # of renameat2(2)
UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
log = logging.getLogger(__name__)
_held: dict[Path, int] = {}  # a handle that holds each


class Scratch:
    """A file, or a folder, in the making, beside the place that it will take.

    Its maker holds a lock on it for as long as it lives; so what a killed one left can be told from what another
    process is at, and the next maker in that place removes it.

    Attributes:
        path: where to write meanwhile; it exists already, empty.
    """

    def __init__(self, place: Path, folder: bool = False):
        sweep(place.parent, place.name)
        self._lock: int | None = None
        while self._lock is None:
            self.path = place.with_name(f".{place.name}.{uuid4().hex[:8]}{UNFINISHED}")
            self.path.mkdir() if folder else self.path.touch(exist_ok=False)
            self._lock = _locked(self.path)  # None: taken for a dead one's before it was locked

    def publish(self, place: Path, over: bool = False) -> None:
        """Sync and rename: from here on it is there for everybody.

        Args:
            over: a folder takes the place of one that is there.
        """
        for path in (self.path, *self.path.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if over and place.is_dir():
            _exchange(self.path, place)
        else:
            self.path.replace(place)
        self.discard()

    def discard(self) -> None:
        """Remove what was not published."""
        _remove(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def cache_directory() -> Path:
    """Where what is made once is kept: $BLOCK_DRAFTER_CACHE, or block-drafter under the user's cache.

    Raises:
        ValueError: neither is named, and this user has no home.
    """
    if named := os.environ.get("BLOCK_DRAFTER_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "block-drafter"
    except RuntimeError:
        raise ValueError("BLOCK_DRAFTER_CACHE: this user has no home to keep a cache in; name a folder there") from None


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what killed makers of `name`, or of anything, left in `folder`."""
    for path in folder.glob(f".{name if name == '*' else glob.escape(name)}.*{UNFINISHED}"):
        lock = _locked(path)
        if lock is not None:
            _remove(path)
            os.close(lock)


@contextmanager
def atomically(path: Path, folder: bool = False, over: bool = False) -> Iterator[Path]:
    """A scratch path beside `path` that takes its name when the block ends well, and is gone otherwise.

    Args:
        folder: make a folder; `path` must then not exist, or be an empty one.
        over: or else it is replaced, so that there is no moment without the old one or the new one.
    Raises:
        OSError: with the path in it, where the system gave none (a full disk).
    """
    place = path.resolve() if folder else path  # a link to a folder stays one
    with naming(path):
        scratch = Scratch(place, folder)
        try:
            yield scratch.path
            scratch.publish(place, over)
        finally:
            scratch.discard()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into errors of the file system that name none, or what is in the making beside it."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(UNFINISHED):
            error.filename = str(path)
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder: all of it is gone at once, though a kill may leave something for a sweep."""
    doomed = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}{UNFINISHED}")
    folder.rename(doomed)
    _remove(doomed)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, its keys sorted; null for what is no finite number, which JSON does not know."""
    with atomically(path) as scratch:
        scratch.write_text(json.dumps(_finite(content), indent=2, sort_keys=True, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _finite(one) for name, one in content.items()}
    return [_finite(one) for one in content] if isinstance(content, (list, tuple)) else content


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records under every name that one of them has; empty where another lacks it."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    with atomically(path) as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _exchange(one: Path, other: Path) -> None:
    """Let two folders take each other's names, in one step where the file system can (Linux, local disks)."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None:
        if not swap(AT_CWD, os.fsencode(one), AT_CWD, os.fsencode(other), EXCHANGE):
            return
        if (number := ctypes.get_errno()) not in UNABLE:
            raise OSError(number, os.strerror(number), str(other))
    log.info("%s: this file system can't exchange two folders; for a moment neither is there", other)
    aside = other.with_name(f".{other.name}.{uuid4().hex[:8]}.old")  # a kill here leaves both, under other names
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def hold(path: Path) -> bool:
    """Hold `path`, a file that nobody else opens, until this process ends; False where another process holds it.

    By a lock that processes begun from here do not share, and that a kill takes with it.
    """
    if path in _held:
        os.close(_held.pop(path))
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(handle)
        return False
    _held[path] = handle
    return True


def _locked(path: Path) -> int | None:
    """A handle that holds the lock on `path`; None where it is gone, or somebody else holds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
    os.close(handle)
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
