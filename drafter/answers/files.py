"""One Parquet file of answers, written atomically and read strictly."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from drafter.files import atomically

SCHEMA = pyarrow.schema(
    [
        ("source", pyarrow.string()),  # document that the prompt comes from: the split never divides one
        ("kind", pyarrow.string()),
        ("prompt", pyarrow.string()),  # the user's turn; null where `messages` holds more than that
        ("messages", pyarrow.string()),  # JSON: the turns before the answer; null for a single user turn
        ("tools", pyarrow.string()),  # JSON: what the template was told of tools; null without
        ("answer_ids", pyarrow.list_(pyarrow.int32())),
        ("stop", pyarrow.string()),  # `stop`, or `length` where the answer was cut
    ]
)
OPTIONAL = ("messages", "tools")  # files of single turns may lack them
MANIFEST = b"block_drafter"
COMPRESSION: dict[str, Any] = {"compression": "zstd", "compression_level": 9}

Answer = dict[str, Any]


def write(path: Path, rows: Iterable[Answer], manifest: dict[str, Any]) -> None:
    """Write rows and their manifest to `path` atomically."""
    table = pyarrow.Table.from_pylist(list(rows), schema=schema(manifest))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as scratch:
        pyarrow.parquet.write_table(table, scratch, **COMPRESSION)


def schema(manifest: dict[str, Any]) -> pyarrow.Schema:
    """The columns, with the manifest as their metadata."""
    return SCHEMA.with_metadata({MANIFEST: json.dumps(manifest)})


def inspect(path: Path, remedy: str) -> tuple[int, dict[str, Any]]:
    """Number of rows and manifest of a file, from its footer; raises as `parse` does."""
    with damage(path, remedy):
        found = pyarrow.parquet.read_metadata(path)
        check_columns(path, found.schema.to_arrow_schema().names)
        known = json.loads((found.metadata or {}).get(MANIFEST, b"{}"))
    if not isinstance(known, dict) or not isinstance(known.get("recipe", {}), dict):
        raise ValueError(f"data.answers={str(path)!r}: its manifest is not what `drafter regenerate` writes; {remedy}")
    return found.num_rows, known


def parse(path: Path, remedy: str, sha256: str | None = None) -> pyarrow.Table:
    """A file's table, with the columns of SCHEMA.

    Args:
        remedy: what to do about a damaged file.
        sha256: of the file, where known.
    Raises:
        ValueError: the file is missing, cut off, changed, or no file of answers; with the remedy.
    """
    with damage(path, remedy):
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise pyarrow.ArrowInvalid("its checksum is not the manifest's")
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
    check_columns(path, table.column_names)
    for name in OPTIONAL:
        if name not in table.column_names:
            table = table.append_column(name, pyarrow.nulls(len(table), pyarrow.string()))
    with damage(path, remedy):
        table = table.select(SCHEMA.names).cast(SCHEMA)
    known = [name for name in SCHEMA.names if name not in (*OPTIONAL, "prompt")]
    empty = [name for name in known if table[name].null_count]
    neither = pyarrow.compute.and_(table["prompt"].is_null(), table["messages"].is_null())
    if pyarrow.compute.any(neither).as_py():
        empty.append("prompt or messages")
    if empty:
        raise ValueError(f"data.answers={str(path)!r}: has rows without {', '.join(empty)}; {remedy}")
    return table


@contextmanager
def damage(path: Path, remedy: str) -> Iterator[None]:
    """Turn what reading a missing or damaged file raises into one line with the remedy."""
    if not path.is_file():
        raise ValueError(f"data.answers={str(path)!r}: no such file; {remedy}")
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"data.answers={str(path)!r}: cut off or damaged ({reason}); {remedy}") from None


def check_columns(path: Path, names: list[str]) -> None:
    """Refuse a Parquet file of something else."""
    absent = [name for name in SCHEMA.names if name not in (*names, *OPTIONAL)]
    if absent:
        raise ValueError(f"data.answers={str(path)!r}: lacks the columns {absent}; make it with `drafter regenerate`")


def asked(answer: Answer) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """The turns before an answer, and the tools that its template was told of."""
    messages, tools = answer.get("messages"), answer.get("tools")
    single = [{"role": "user", "content": answer["prompt"]}]
    return json.loads(messages) if messages else single, json.loads(tools) if tools else None


def digest(rows: Iterable[dict[str, Any]]) -> str:
    """A short hash of rows, order included."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:16]
