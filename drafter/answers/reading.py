"""Answers on disk, a file or a folder of shards: read whole, or shard by shard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from drafter.answers.files import Answer, inspect, parse
from drafter.answers.manifest import Manifest

MAKE = "make it with `drafter regenerate RECIPE`"
AGAIN = "make it again"
ONE_SHARD = "delete this file and run `drafter regenerate RECIPE`, which makes only what is missing"


@dataclass(frozen=True)
class Answers:
    """What a file or a folder of answers holds.

    Args:
        files: Parquet files, in order.
        rows: how many each holds.
        checksums: SHA-256 of each; None for a single file.
        manifest: what the answers depend on, and counts.
    """

    path: Path
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    checksums: tuple[str | None, ...]
    manifest: dict[str, Any]

    def table(self, number: int) -> pyarrow.Table:
        """One file, its checksum compared.

        Raises:
            ValueError: it is missing, cut off or changed; names the file and the remedy.
        """
        remedy = AGAIN if self.checksums[number] is None else ONE_SHARD
        return parse(self.files[number], remedy, self.checksums[number])

    def load(self, number: int) -> list[Answer]:
        """The rows of one file; raises as `table` does."""
        return self.table(number).to_pylist()

    def all(self) -> list[Answer]:
        """The rows of all files; raises as `table` does."""
        return [row for number in range(len(self.files)) for row in self.load(number)]


def open_answers(path: Path) -> Answers:
    """Look into a file or a folder of answers without reading its rows.

    Raises:
        ValueError: it is missing, unfinished, without rows, or no answers.
    """
    if path.is_dir():
        manifest = Manifest.load(path)
        if not manifest.complete:
            finished = sum(1 for shard in manifest.shards if shard.sha256)
            raise ValueError(
                f"data.answers={str(path)!r}: unfinished ({finished} of {len(manifest.shards)} shards); "
                "go on with `drafter regenerate RECIPE`"
            )
        numbers = [number for number, shard in enumerate(manifest.shards) if shard.rows]
        files = tuple(path / shard_name(number) for number in numbers)
        shards = [manifest.shards[number] for number in numbers]
        found = Answers(
            path,
            files,
            tuple(shard.rows for shard in shards),
            tuple(shard.sha256 for shard in shards),
            manifest.summary(),
        )
    else:
        if not path.is_file():
            raise ValueError(f"data.answers={str(path)!r}: no such file; {MAKE}")
        rows, known = inspect(path, AGAIN)
        found = Answers(path, (path,), (rows,), (None,), known)
    if not sum(found.rows):
        raise ValueError(f"data.answers={str(path)!r}: holds no rows; check data.sources and make it again")
    return found


def read(path: Path) -> tuple[list[Answer], dict[str, Any]]:
    """All rows, and the manifest, of a file or a folder of answers.

    Raises:
        ValueError: it is missing, unfinished, cut off, changed, without rows, or no answers.
    """
    found = open_answers(path)
    return found.all(), found.manifest


def check_origin(
    path: Path, manifest: dict[str, Any], fingerprint: str, tokenizer: str | None, template: str | None = None
) -> None:
    """Refuse answers of another verifier, or of a server whose tokens are another tokenizer's or template's.

    Args:
        fingerprint: of the verifier.
        tokenizer: hash of its vocabulary.
        template: hash of its chat template; None is not compared.
    """
    remedy = "make answers with `drafter regenerate`"
    made_by = manifest.get("verifier")
    if made_by not in (None, fingerprint):
        raise ValueError(
            f"data.answers={str(path)!r}: written by another verifier ({made_by}, not {fingerprint}); {remedy}"
        )
    who = manifest.get("server_model") or ("their authors" if manifest.get("answered_by") else "the verifier")
    tokens, shape = manifest.get("tokenizer"), manifest.get("template")
    if tokens not in (None, tokenizer):
        raise ValueError(
            f"data.answers={str(path)!r}: {who} answered in another tokenizer's tokens ({tokens}, not {tokenizer}); "
            f"{remedy}"
        )
    if template is not None and shape not in (None, template):
        raise ValueError(
            f"data.answers={str(path)!r}: made with another chat template ({shape}, not {template}), in which prompts "
            f"are other tokens; go back to it, or {remedy}"
        )


def shard_name(number: int) -> str:
    """File of a finished shard."""
    return f"shard-{number:05d}.parquet"
