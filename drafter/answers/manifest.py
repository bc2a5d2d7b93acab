"""`manifest.json` of a folder of answers: what they depend on, what is there, what went wrong."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drafter.files import write_json

FILE = "manifest.json"
FORMAT = 1


@dataclass
class ShardRecord:
    """A shard: its prompts, and once they are answered its rows.

    Args:
        prompts, prompts_sha256: how many, and the checksum of the file that keeps them.
        rows, tokens: rows written, and the tokens of their answers.
        failed: prompts without an answer: index among all prompts, source, reason, detail.
        notes: what the answerer counted.
        sha256: of the finished shard; None while it is unfinished.
    """

    prompts: int
    prompts_sha256: str
    rows: int = 0
    tokens: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    sha256: str | None = None


@dataclass
class Manifest:
    """Everything that a folder knows of its answers.

    Args:
        origin: what the answers depend on: another one is refused.
        drawn: whether all prompts are kept, so that `shards` is whole.
        bad_rows: rows of the sources that became no prompt, by reason.
    """

    origin: dict[str, Any]
    drawn: bool = False
    bad_rows: dict[str, int] = field(default_factory=dict)
    shards: list[ShardRecord] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.drawn and all(shard.sha256 for shard in self.shards)

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [failure for shard in self.shards for failure in shard.failed]

    def summary(self) -> dict[str, Any]:
        """What the answers depend on, and counts."""
        notes: Counter[str] = Counter()
        for shard in self.shards:
            notes.update(shard.notes)
        return {
            **self.origin,
            "prompts": sum(shard.prompts for shard in self.shards),
            "rows": sum(shard.rows for shard in self.shards),
            "tokens": sum(shard.tokens for shard in self.shards),
            "failed": dict(sorted(Counter(failure["reason"] for failure in self.failures).items())),
            "bad_rows": dict(sorted(self.bad_rows.items())),
            **notes,
        }

    def save(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        known = {"format": FORMAT, "complete": self.complete, "summary": self.summary(), **asdict(self)}
        write_json(folder / FILE, known)

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read `manifest.json`.

        Raises:
            ValueError: it is missing, damaged or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            raise ValueError(f"data.answers={str(folder)!r}: no folder of answers (it lacks {FILE}); name another")
        try:
            found = json.loads(path.read_text())
            version = found.pop("format")
            if version == FORMAT:
                shards = [ShardRecord(**shard) for shard in found["shards"]]
                return cls(found["origin"], found["drawn"], found["bad_rows"], shards)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"data.answers={str(path)!r}: damaged ({type(error).__name__}: {error}); delete the folder and make it "
                "again"
            ) from None
        raise ValueError(f"data.answers={str(path)!r}: format {version}, this version reads {FORMAT}; make it again")


def changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Names of the entries, nested ones with dots, in which two origins differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix
