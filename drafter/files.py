"""Files that are whole or not there: written beside their name first, renamed when they are on the disk."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A scratch path beside `path` that takes its name when the block ends well, and is gone otherwise.

    Raises:
        OSError: with the path in it, where the system gave none (a full disk).
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield scratch
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into errors of the file system that name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON, its keys sorted."""
    with atomically(path) as scratch:
        scratch.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


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
