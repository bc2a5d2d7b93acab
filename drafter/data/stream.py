"""Answers read from disk as training goes on, for data that do not fit into memory.

An epoch's order is its row groups, shuffled; reader r of R takes the r-th of R equal parts of it, so that every answer
is read by one of them. From its part a reader fills a buffer, shuffles and groups that by length, and lets it go as
batches. Where a reader stands is three numbers, from which it goes on with the very batch that would have been next.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

import numpy
import pyarrow
import pyarrow.parquet

from drafter.answers import SCHEMA, Answer
from drafter.answers.files import OPTIONAL
from drafter.data.rows import Row
from drafter.files import sha256_of

ROWS_AT_ONCE = 256


class Group(NamedTuple):
    """A row group of a Parquet file."""

    file: int
    group: int
    rows: int
    first: int  # of its rows, counted in the file


class Place(NamedTuple):
    """Where a reader stands: its epoch, where in its part the buffer begins, how many batches of that are out."""

    epoch: int = 0
    row: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Survey:
    """What one look at all answers finds.

    Args:
        rows: answers of training documents; tokens: in them, uncut.
        counts: how often each token occurs in them, [V].
    """

    rows: int
    tokens: int
    counts: numpy.ndarray


class Stream:
    """Answers on disk, of which only what is asked for is in memory.

    Args:
        files: Parquet files of answers.
        checksums: SHA-256 of each, compared before it is first read; None where unknown.
        seed: of the epochs' orders.
    """

    def __init__(self, files: Sequence[Path], checksums: Sequence[str | None], seed: int):
        self.files, self.checksums, self.seed = list(files), list(checksums), seed
        self.groups: list[Group] = []
        for number, path in enumerate(self.files):
            footer = pyarrow.parquet.read_metadata(path)
            rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            starts = accumulate(rows, initial=0)
            found = zip(rows, starts, strict=False)
            self.groups += [Group(number, group, count, first) for group, (count, first) in enumerate(found)]
        self._checked: set[int] = set()

    @cached_property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    def part(self, epoch: int, reader: int, readers: int, first: int = 0) -> Iterator[tuple[int, str, Answer]]:
        """The answers of a reader's part of an epoch from its row `first` on.

        Returns:
            tuples of row in the part, where the answer stands, and the answer.
        """
        begin, end = self.rows * reader // readers, self.rows * (reader + 1) // readers
        at, where = 0, begin + first
        for group in self._order(epoch):
            if at + group.rows > where and at < end:
                wanted = islice(self._read(group, max(0, where - at)), min(at + group.rows, end) - max(at, where))
                for offset, (name, answer) in enumerate(wanted, start=max(at, where) - begin):
                    yield offset, name, answer
            at += group.rows

    def in_order(self) -> Iterator[tuple[str, Answer]]:
        """All answers as they stand in the files."""
        for group in self.groups:
            yield from self._read(group, 0)

    def survey(self, vocabulary: int, held_out: Callable[[str], bool]) -> Survey:
        """Count the answers of training documents, and the tokens in them."""
        rows, counts = 0, numpy.zeros(vocabulary, dtype=numpy.int64)
        for group in self.groups:
            for batch in self._batches(group, ["source", "answer_ids"]):
                kept = [not held_out(source) for source in batch["source"].to_pylist()]
                ids = batch["answer_ids"].filter(pyarrow.array(kept)).flatten().to_numpy()
                rows += sum(kept)
                counts += numpy.bincount(ids, minlength=vocabulary)[:vocabulary]
        return Survey(rows, int(counts.sum()), counts)

    @lru_cache(maxsize=2)  # noqa: B019 (a run has one stream)
    def _order(self, epoch: int) -> list[Group]:
        order = list(self.groups)
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return order

    def _read(self, group: Group, first: int) -> Iterator[tuple[str, Answer]]:
        """The answers of a row group from its row `first` on, with where each stands."""
        at = 0
        for batch in self._batches(group, None):
            for offset, answer in enumerate(batch.slice(max(0, first - at)).to_pylist(), start=max(at, first)):
                yield f"{self.files[group.file]}, row {group.first + offset}", answer
            at += batch.num_rows

    def _batches(self, group: Group, columns: list[str] | None) -> Iterator[pyarrow.RecordBatch]:
        path = self.files[group.file]
        self._check(group.file)
        try:
            with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                known = [name for name in columns or SCHEMA.names if name in file.schema_arrow.names]
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group.group], columns=known):
                    for name in OPTIONAL if columns is None else ():
                        if name not in known:
                            batch = batch.append_column(name, pyarrow.nulls(batch.num_rows, pyarrow.string()))
                    yield batch
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"data.answers={str(path)!r}: cut off or damaged ({reason}); make it again") from None

    def _check(self, number: int) -> None:
        path, expected = self.files[number], self.checksums[number]
        if number not in self._checked and expected is not None and sha256_of(path) != expected:
            raise ValueError(f"data.answers={str(path)!r}: its checksum is not the manifest's")
        self._checked.add(number)


def buffers(
    stream: Stream, make: Callable[[str, Answer], Row | None], reader: int, readers: int, size: int, start: Place
) -> Iterator[tuple[Place, list[Row], bool]]:
    """A reader's part, epoch after epoch, as buffers of `size` rows.

    Args:
        make: where an answer stands, and the answer → a row; None for what is not trained on.
        start: the buffer to begin with.
    Returns:
        tuples of where the buffer begins, its rows, and whether it is the last of its epoch.
    Raises:
        ValueError: the part holds no row to train on.
    """
    epoch, first = start.epoch, start.row
    while True:
        rows = (
            (offset, row)
            for offset, name, answer in stream.part(epoch, reader, readers, first)
            if (row := make(name, answer)) is not None
        )
        waiting = next(rows, None)
        if waiting is None and first == 0:
            raise ValueError(
                f"data.answers: reader {reader} of {readers} finds no row to train on; lower training.workers or "
                "training.devices, or raise data.sequence_length"
            )
        while waiting is not None:
            begin, buffer = waiting[0], [waiting[1]]
            buffer += [row for _, row in islice(rows, size - 1)]
            waiting = next(rows, None)
            yield Place(epoch, begin), buffer, waiting is None
        epoch, first = epoch + 1, 0
