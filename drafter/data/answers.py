"""Files of prompts with the verifier's answers: Parquet, written atomically, resumable part by part."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

SCHEMA = pyarrow.schema(
    [
        ("source", pyarrow.string()),  # document that the prompt comes from: the split never divides one
        ("kind", pyarrow.string()),
        ("prompt", pyarrow.string()),  # the user's turn
        ("answer_ids", pyarrow.list_(pyarrow.int32())),
        ("stop", pyarrow.string()),  # `stop`, or `length` where the answer was cut
    ]
)
MANIFEST = b"block_drafter"

Answer = dict[str, Any]


def write(path: Path, rows: Iterable[Answer], manifest: dict[str, Any]) -> None:
    """Write rows and their manifest to `path` atomically."""
    table = pyarrow.Table.from_pylist(list(rows), schema=SCHEMA)
    table = table.replace_schema_metadata({MANIFEST: json.dumps(manifest)})
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pyarrow.parquet.write_table(table, scratch, compression="zstd", compression_level=19)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read(path: Path) -> tuple[list[Answer], dict[str, Any]]:
    """Rows and manifest of a file of answers.

    Raises:
        ValueError: the file is missing, cut off, without rows, or no file of answers.
    """
    if not path.is_file():
        raise ValueError(
            f"data.answers={str(path)!r}: no such file; make it with `python -m drafter regenerate RECIPE`"
        )
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"data.answers={str(path)!r}: cut off or damaged ({reason}); make it again") from None
    absent = [name for name in SCHEMA.names if name not in table.column_names]
    if absent:
        raise ValueError(
            f"data.answers={str(path)!r}: lacks the columns {absent}; make it with `python -m drafter regenerate`"
        )
    rows = table.select(SCHEMA.names).to_pylist()
    if not rows:
        raise ValueError(f"data.answers={str(path)!r}: holds no rows; raise data.prompts and make it again")
    return rows, json.loads((table.schema.metadata or {}).get(MANIFEST, b"{}"))


def digest(rows: Iterable[dict[str, Any]]) -> str:
    """A short hash of rows, order included."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:16]


class Parts:
    """Finished rows beside the file that they will become; what a kill leaves, the next run goes on from.

    Args:
        path: the file to be made; parts live in `<path>.parts`.
        manifest: what the rows depend on. Parts made under another manifest are refused, never mixed in.
        size: rows per part.
    Raises:
        ValueError: parts of another recipe are in the way.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], size: int = 64):
        self.path, self.manifest, self.size = path, manifest, size
        self.folder = path.with_name(path.name + ".parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[int, Answer] = {}
        for part in sorted(self.folder.glob("part-*.parquet")):
            rows, found = read(part)
            indices = found.pop("indices")
            if found != manifest:
                changed = sorted(key for key in manifest.keys() | found.keys() if manifest.get(key) != found.get(key))
                raise ValueError(
                    f"data.answers={str(path)!r}: unfinished parts of another recipe (other {', '.join(changed)}) in "
                    f"{self.folder}; finish that one, or delete the folder"
                )
            self.done |= dict(zip(indices, rows, strict=True))
        self._pending: dict[int, Answer] = {}

    def add(self, index: int, row: Answer) -> None:
        self._pending[index] = row
        if len(self._pending) >= self.size:
            self.flush()

    def flush(self) -> None:
        """Write the rows not yet on disk as one part."""
        if self._pending:
            number = len(list(self.folder.glob("part-*.parquet")))
            part = self.folder / f"part-{number:05d}.parquet"
            write(part, self._pending.values(), {**self.manifest, "indices": list(self._pending)})
            self.done |= self._pending
            self._pending = {}

    def finish(self) -> None:
        """Merge all parts, in order, into the file, then drop them."""
        self.flush()
        write(self.path, (self.done[index] for index in sorted(self.done)), self.manifest)
        shutil.rmtree(self.folder)
