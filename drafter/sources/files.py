"""Files of prompts or conversations: JSON Lines, plain or gzipped, and Parquet; never read whole into memory."""

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from drafter.sources.base import BadRow, BadRows, Conversation, Source
from drafter.sources.records import Fields, conversation_of, without_nulls

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
BATCH = 64


@dataclass
class File(Source):
    """Rows of JSONL, JSONL.gz or Parquet files.

    Args:
        path: a file, or a pattern such as `data/*.parquet`.
        field: name of the field with the conversation; null for the first of messages, conversations, prompt.
        answer: name of the field with the author's answer to a prompt.
        document: name of the field with the document that a row comes from; null: each row is one.
        limit: rows read, the first ones; null for all.
        longest: bytes of the longest line or row; longer ones are bad.
    """

    kind: str = "file"
    path: str = ""
    field: str | None = None
    answer: str | None = None
    document: str | None = None
    limit: int | None = None
    longest: int = 2_000_000

    def __post_init__(self) -> None:
        self.require(bool(self.path), "path", "name a file, or a pattern such as data/*.parquet")
        self.require(self.path.endswith(SUFFIXES), "path", f"must end in one of {', '.join(SUFFIXES)}")
        self.require(self.limit is None or self.limit >= 1, "limit", "must be >= 1, or null")
        self.require(self.longest >= 1, "longest", "must be >= 1")

    def conversations(self, seed: int, bad: BadRows) -> Iterator[Conversation]:
        """Every row of every file, in order; raises where there is no file."""
        fields = Fields(self.field, self.answer, self.document)
        found = islice(self._files(fields, bad), self.limit)
        for path, number, record in found:
            try:
                yield conversation_of(record, fields, path.name, number)
            except BadRow as error:
                bad.add(f"{path}, row {number}", error)

    def _files(self, fields: Fields, bad: BadRows) -> Iterator[tuple[Path, int, Any]]:
        named = os.path.expanduser(self.path)
        paths = [named] if os.path.exists(named) else sorted(glob.glob(named, recursive=True))
        if not paths:
            raise ValueError(f"data.sources: path={self.path!r}: no such file; check the path")
        for path in map(Path, paths):
            read = parquet_rows if path.suffix == ".parquet" else json_lines
            try:
                for number, record in read(path, fields.names(), self.longest, bad):
                    yield path, number, record
            except BadRow as error:
                bad.add(str(path), error)


def json_lines(path: Path, names: list[str], longest: int, bad: BadRows) -> Iterator[tuple[int, Any]]:
    """(number from 1, record) of each line; a line is read at most up to `longest` bytes.

    Raises:
        BadRow: the rest of the file can't be read.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = _lines(file, longest)
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise BadRow("damaged file", str(error)) from None
            try:
                record = _record(line, longest)
            except BadRow as error:
                bad.add(f"{path}, row {number}", error)
            else:
                if record is not None:
                    yield number, record


def parquet_rows(path: Path, names: list[str], longest: int, bad: BadRows) -> Iterator[tuple[int, Any]]:
    """(number from 1, record) of each row, some rows at a time; raises as `json_lines` does."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in names]
            if not columns:
                raise BadRow("no prompt", f"the file has none of the columns {', '.join(names)}")
            number = 0
            for batch in file.iter_batches(BATCH, columns=columns):
                for row in range(len(batch)):
                    number += 1
                    try:
                        yield number, _row(batch.slice(row, 1), longest)
                    except BadRow as error:
                        bad.add(f"{path}, row {number}", error)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRow("damaged file", str(error).splitlines()[0]) from None


def _lines(file: io.BufferedIOBase, longest: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, each cut one byte past `longest`, so that its length shows and its rest is never held."""
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        rest = line
        while len(rest) > longest and not rest.endswith(b"\n"):
            rest = file.readline(longest + 1)
            if not rest:
                break
        yield number, line


def _record(line: bytes, longest: int) -> Any:
    """A line's record; None for a blank one."""
    if len(line) > longest:
        raise BadRow("too long", f"more than {longest} bytes")
    try:
        text = line.decode().removeprefix("\ufeff")  # a byte-order mark, of this file or of one put behind another
    except UnicodeDecodeError as error:
        raise BadRow("invalid UTF-8", f"byte {error.start}") from None
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("no JSON", str(error)) from None


def _row(row: pyarrow.RecordBatch, longest: int) -> Any:
    if row.nbytes > longest:
        raise BadRow("too long", f"more than {longest} bytes")
    try:
        return without_nulls(row.to_pylist()[0])
    except UnicodeDecodeError as error:
        raise BadRow("invalid UTF-8", f"byte {error.start}") from None
