"""Answers in the making: prompts drawn once and kept, a journal for each unfinished shard, finished shards in order.

A shard holds the answers of a fixed run of prompts, in their order, so that what it holds depends neither on how the
prompts were batched nor on kills. A single file is made the same way, beside itself, and merged from shards at the end.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from drafter.answers.files import (
    COMPRESSION,
    Answer,
    parse,
    schema,
    write,
)
from drafter.answers.journal import Journal
from drafter.answers.manifest import FILE, Manifest, ShardRecord, changes
from drafter.answers.reading import ONE_SHARD, shard_name
from drafter.files import atomically, remove_folder, sha256_of, sweep

SHARD_PROMPTS = 4096


def parts_of(path: Path) -> Path:
    """Where the shards of a single file live until it is made."""
    return path.with_name(path.name + ".parts")


def check_free(path: Path) -> None:
    """Refuse a file that is there; what it was merged from goes, if a kill came before that."""
    parts = parts_of(path)
    if not path.is_file():
        return
    sweep(path.parent, path.name)
    sweep(path.parent, parts.name)
    if (parts / FILE).is_file() and Manifest.load(parts).complete:
        remove_folder(parts)
    raise ValueError(f"data.answers={str(path)!r}: exists already; delete it, or name another with --out")


class Store:
    """A folder, or a file, of answers being made; one process at a time.

    Args:
        path: a folder for shards, or `*.parquet` for a single file (its shards live in `<path>.parts` meanwhile).
        origin: what the answers depend on. Answers of another origin are refused, never mixed in.
        shard_prompts: prompts of a shard.
    Raises:
        ValueError: answers of another origin, finished answers or foreign files are in the way; a finished shard is
            damaged; another process is at work.
    """

    def __init__(self, path: Path, origin: dict[str, Any], shard_prompts: int = SHARD_PROMPTS):
        self.path, self.shard_prompts = path, shard_prompts
        self.single = path.suffix == ".parquet"
        self.folder = parts_of(path) if self.single else path
        check_free(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._take()
        try:
            self._open(json.loads(json.dumps(origin)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def drawn(self) -> bool:
        """Whether the prompts are kept already."""
        return self.manifest.drawn

    def draw(self, prompts: Iterable[Mapping[str, Any]], bad_rows: Mapping[str, int]) -> None:
        """Keep the prompts, shard by shard; done once, so that a resumed run asks the same ones.

        Args:
            bad_rows: rows of the sources that became no prompt, by reason; read when the prompts are exhausted.
        Raises:
            ValueError: there are no prompts.
        """
        waiting = iter(prompts)
        self.manifest.shards = []
        while batch := [json.dumps(prompt) for prompt in islice(waiting, self.shard_prompts)]:
            path = self._prompts(len(self.manifest.shards))
            with atomically(path) as scratch:
                pyarrow.parquet.write_table(pyarrow.table({"prompt": batch}), scratch, **COMPRESSION)
            self.manifest.shards.append(ShardRecord(len(batch), sha256_of(path)))
        for path in self.folder.glob("prompts-*.parquet"):
            if path not in map(self._prompts, range(len(self.manifest.shards))):  # drawn before a kill, or a change
                path.unlink()
        if not self.manifest.shards:
            raise ValueError("data.sources: ask for no prompt; name one that has some")
        self.manifest.drawn, self.manifest.bad_rows = True, dict(bad_rows)
        self.manifest.save(self.folder)

    def unfinished(self) -> Iterator["OpenShard"]:
        """The shards that still lack answers, one at a time; finish each before the next."""
        for number, shard in enumerate(self.manifest.shards):
            if shard.sha256 is None:
                yield OpenShard(self, number)

    def prompts(self, number: int) -> list[dict[str, Any]]:
        """The prompts of a shard, in order.

        Raises:
            ValueError: their file is missing or damaged.
        """
        path, shard = self._prompts(number), self.manifest.shards[number]
        if not path.is_file() or sha256_of(path) != shard.prompts_sha256:
            raise ValueError(
                f"data.answers={str(path)!r}: the kept prompts are missing or changed; delete {self.folder} and start "
                "anew"
            )
        return [json.loads(line) for line in pyarrow.parquet.read_table(path)["prompt"].to_pylist()]

    def finish(self) -> dict[str, Any]:
        """End the work; a single file is merged from its shards, which are dropped.

        Returns:
            what the answers depend on, and counts.
        Raises:
            ValueError: no prompt was answered.
        """
        summary = self.manifest.summary()
        if not summary["rows"]:
            first = self.manifest.failures[0]["detail"]
            self.manifest.shards = [ShardRecord(each.prompts, each.prompts_sha256) for each in self.manifest.shards]
            self.manifest.save(self.folder)
            reasons = ", ".join(f"{count} of {reason}" for reason, count in summary["failed"].items())
            raise ValueError(f"data.answers={str(self.path)!r}: not one prompt was answered ({reasons}; {first})")
        if self.single:
            with atomically(self.path) as scratch:
                columns = schema(summary)
                with pyarrow.parquet.ParquetWriter(scratch, columns, **COMPRESSION) as writer:
                    for number, shard in enumerate(self.manifest.shards):
                        table = parse(self.folder / shard_name(number), ONE_SHARD, shard.sha256)
                        writer.write_table(table.replace_schema_metadata(columns.metadata))
            remove_folder(self.folder)
        return summary

    def close(self) -> None:
        """Let other processes work here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> int | None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise ValueError(f"data.answers={str(self.path)!r}: another process is making them; wait for it") from None
        return handle

    def _open(self, origin: dict[str, Any]) -> None:
        sweep(self.folder)
        if not any(self.folder.iterdir()):
            Manifest(origin).save(self.folder)
        self.manifest = Manifest.load(self.folder)
        other = list(changes(self.manifest.origin, origin))
        if other and not self._begun():
            self.manifest = Manifest(origin)
        elif other:
            raise ValueError(
                f"data.answers={str(self.path)!r}: answers of another recipe (other {', '.join(other)}) are in "
                f"{self.folder}; go back to that one, delete the folder, or name another with --out"
            )
        for number, shard in enumerate(self.manifest.shards):
            path = self.folder / shard_name(number)
            if shard.sha256 is not None and not path.exists():  # deleted, so that it is made again
                self.manifest.shards[number] = ShardRecord(shard.prompts, shard.prompts_sha256)
            elif shard.sha256 is not None:
                parse(path, ONE_SHARD, shard.sha256)
                self.journal(number).unlink(missing_ok=True)  # a kill came between writing a shard and dropping it
        if self.manifest.complete and not self.single:
            raise ValueError(f"data.answers={str(self.path)!r}: exists already; delete it, or name another with --out")

    def _begun(self) -> bool:
        """Whether there is an answer to lose."""
        journals = self.folder.glob("journal-*.jsonl")
        return any(shard.sha256 for shard in self.manifest.shards) or any(path.stat().st_size for path in journals)

    def _prompts(self, number: int) -> Path:
        return self.folder / f"prompts-{number:05d}.parquet"

    def journal(self, number: int) -> Path:
        return self.folder / f"journal-{number:05d}.jsonl"


class OpenShard:
    """A shard that lacks answers.

    Attributes:
        prompts: all of them, in order.
        first: index of the first among all prompts.
        missing: numbers of those without an answer yet; failed ones are among them until the shard is finished.
    """

    def __init__(self, store: Store, number: int):
        self.store, self.number = store, number
        self.prompts = store.prompts(number)
        self.first = sum(shard.prompts for shard in store.manifest.shards[:number])
        self._journal = Journal(store.journal(number))
        self._failed: dict[int, dict[str, Any]] = {}

    @property
    def missing(self) -> list[int]:
        return [number for number in range(len(self.prompts)) if number not in self._journal.done]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [self._failed[number] for number in sorted(self._failed)]

    def add(self, number: int, rows: list[Answer], **notes: int) -> None:
        """Keep the rows of a prompt, and counts to be summed; they survive a kill from here on."""
        self._journal.add(number, rows, notes)

    def fail(self, number: int, reason: str, detail: str) -> None:
        """Note that a prompt has no answer; a resumed run tries it again unless the shard is finished."""
        source = self.prompts[number].get("source")
        self._failed[number] = {"prompt": self.first + number, "source": source, "reason": reason, "detail": detail}

    def close(self) -> None:
        """Let go of the journal; what stands in it stays."""
        self._journal.close()

    def finish(self) -> None:
        """Write the shard, note it in the manifest, drop the journal."""
        done = self._journal.done
        unanswered = set(self.missing) - set(self._failed)
        if unanswered:
            raise RuntimeError(f"shard {self.number}: {len(unanswered)} prompts have neither answer nor failure")
        rows = [row for number in sorted(done) for row in done[number]]
        path = self.store.folder / shard_name(self.number)
        manifest = self.store.manifest
        write(path, rows, manifest.origin)
        shard = manifest.shards[self.number]
        shard.rows, shard.tokens = len(rows), sum(len(row["answer_ids"]) for row in rows)
        shard.failed, shard.notes = self.failures, dict(self._journal.notes)
        shard.sha256 = sha256_of(path)
        manifest.save(self.store.folder)
        self._journal.delete()
