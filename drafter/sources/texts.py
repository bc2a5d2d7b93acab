"""Where plain text comes from, for systems that learn the text itself: documents, each with a name."""

import ast
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drafter.sources.hub import rows_of
from drafter.sources.standard_library import modules, questions_of

Document = tuple[str, str]  # name, text


@dataclass
class TextSource:
    """Where documents come from; a source is its own settings, and `kind` says which one it is."""

    kind: str = ""

    def documents(self) -> Iterator[Document]:
        """Every document, in order.

        Raises:
            ValueError: the source is missing.
        """
        raise NotImplementedError

    def require(self, ok: bool, name: str, remedy: str) -> None:
        """Raise the one-line ValueError of a wrong setting unless `ok`."""
        if not ok:
            raise ValueError(f"{name}={getattr(self, name)!r}: {remedy}")


@dataclass
class Docstrings(TextSource):
    """What the authors of the running Python's standard library wrote about it: a document per file."""

    kind: str = "docstrings"

    def documents(self) -> Iterator[Document]:
        for name, _, tree in modules():
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
            text = "\n\n".join(one.strip() for one in found if one)
            if text:
                yield name, text


@dataclass
class Functions(TextSource):
    """Functions of the standard library asked for and answered in ChatML: a document per answer.

    Args:
        start, end: marks of a turn.
    """

    kind: str = "functions"
    start: str = "<|im_start|>"
    end: str = "<|im_end|>"

    def documents(self) -> Iterator[Document]:
        for made in questions_of():
            if len(made["messages"]) == 2:
                turns = (f"{self.start}{one['role']}\n{one['content']}{self.end}\n" for one in made["messages"])
                yield made["source"], "".join(turns)


@dataclass
class TextFiles(TextSource):
    """Text files, a document each.

    Args:
        path: a file, or a pattern such as `books/**/*.txt`.
    """

    kind: str = "files"
    path: str = ""

    def __post_init__(self) -> None:
        self.require(bool(self.path), "path", "name a text file, or a pattern such as books/**/*.txt")

    def documents(self) -> Iterator[Document]:
        named = Path(self.path).expanduser()
        found = [str(named)] if named.exists() else sorted(glob.glob(str(named), recursive=True))
        if not found:
            raise ValueError(f"text.sources: path={self.path!r}: no such file; check the pattern")
        for path in map(Path, found):
            if path.is_file():
                try:
                    yield path.name, path.read_text(encoding="utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"text.sources: {path}: no UTF-8 text ({error}); convert it first") from None


@dataclass
class HubTexts(TextSource):
    """Rows of a data set of the hub, a document each.

    Args:
        dataset, configuration, split: where it stands.
        field: with the text.
        limit: rows read, the first ones; null for all.
    """

    kind: str = "hub"
    dataset: str = ""
    configuration: str | None = None
    split: str = "train"
    field: str = "text"
    limit: int | None = None

    def __post_init__(self) -> None:
        self.require(bool(self.dataset), "dataset", "name a data set of the hub, or a directory of one")
        self.require(self.limit is None or self.limit >= 1, "limit", "must be >= 1, or null")

    def documents(self) -> Iterator[Document]:
        rows = rows_of("text.sources", self.dataset, self.configuration, self.split, True, self.limit)
        for number, row in enumerate(rows):
            text = row.get(self.field)
            if not isinstance(text, str):
                raise ValueError(
                    f"text.sources: dataset={self.dataset!r}: row {number} has no text in {self.field!r}, of "
                    f"{', '.join(row)}; name another field"
                )
            yield f"{self.dataset}:{number}", text


TEXT_SOURCES: dict[str, type[TextSource]] = {
    "docstrings": Docstrings,
    "functions": Functions,
    "files": TextFiles,
    "hub": HubTexts,
}
