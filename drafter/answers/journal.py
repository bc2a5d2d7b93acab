"""The answers of an unfinished shard: a line of JSON for each prompt that is done, written when it is done."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from drafter.answers.files import Answer
from drafter.files import naming


class Journal:
    """Rows by the number of their prompt in the shard. A kill loses only what was not yet done.

    Raises:
        ValueError: a line other than the last is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[int, list[Answer]] = {}
        self.notes: Counter[str] = Counter()
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1  # a kill can tear the last line; its prompt is asked again
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                entry: dict[str, Any] = json.loads(line)
                self.done[entry["prompt"]] = entry["rows"]
                self.notes.update(entry["notes"])
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f"data.answers={str(path)!r}: line {number} is damaged; delete this file, its rows are made again"
                ) from None
        with naming(path):
            if whole < len(content):
                os.truncate(path, whole)
            self._file = self._open()

    def _open(self) -> BinaryIO:
        return self.path.open("ab", buffering=0)

    def add(self, prompt: int, rows: list[Answer], notes: dict[str, int]) -> None:
        """Keep the rows of a prompt, and counts that belong to them."""
        line = (json.dumps({"prompt": prompt, "rows": rows, "notes": notes}) + "\n").encode()
        with naming(self.path):
            if self._file.write(line) != len(line):  # a nearly full disk takes a part without an error
                raise OSError(28, "No space left on device")
        self.done[prompt] = rows
        self.notes.update(notes)

    def close(self) -> None:
        self._file.close()

    def delete(self) -> None:
        self.close()
        self.path.unlink()
