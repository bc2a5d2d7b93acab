"""Prompts from the Python standard library: nothing to download, split by file."""

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from drafter.sources.base import BadRows, Conversation, Source

KINDS = ("write", "explain", "annotate")
SKIPPED = ("test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "__phello__")

REQUEST = {
    "write": "Write the body of this Python function.\n\n```python\n{code}\n```",
    "explain": "Explain in a few sentences what this Python function does.\n\n```python\n{code}\n```",
    "annotate": "Add type hints and a docstring to this Python function.\n\n```python\n{code}\n```",
}
CODE = "```python\n{code}\n```"


@dataclass
class StandardLibrary(Source):
    """Functions of the running Python's standard library: write their body, explain or annotate them.

    Args:
        write, explain, annotate: prompts of each kind; a function serves one kind only.
        max_characters: longest code quoted in a prompt.
    """

    kind: str = "standard_library"
    write: int = 0
    explain: int = 0
    annotate: int = 0
    max_characters: int = 600

    def __post_init__(self) -> None:
        for name in KINDS:
            self.require(getattr(self, name) >= 0, name, "must be >= 0")
        self.require(self.max_characters >= 80, "max_characters", "must be >= 80")

    def conversations(self, seed: int, bad: BadRows) -> Iterator[Conversation]:
        """Drawn by `seed` and mixed; raises where the library has too few functions of that size."""
        counts = {name: getattr(self, name) for name in KINDS}
        yield from functions(counts, self.max_characters, seed)


def functions(counts: Mapping[str, int], max_characters: int, seed: int) -> list[Conversation]:
    """Draw functions and ask about them; the author's own words are the answer where there are any.

    They are so for `write` (the body) and for `explain` where the function has a docstring.

    Returns:
        conversations with the file as their document, shuffled by `seed`.
    Raises:
        ValueError: the library has too few functions of that size.
    """
    found: dict[str, dict[str, Conversation]] = {kind: {} for kind in KINDS}
    for made in questions_of(max_characters):
        found[made["kind"]][made["messages"][0]["content"]] = made
    picked: list[Conversation] = []
    for kind, unique in found.items():
        count = counts.get(kind, 0)
        if len(unique) < count:
            raise ValueError(
                f"data.sources: {kind}={count}: the standard library has {len(unique)} functions for it; "
                "lower it or raise max_characters"
            )
        picked += random.Random(f"{seed} {kind}").sample(list(unique.values()), count)
    random.Random(seed).shuffle(picked)
    return picked


def questions_of(max_characters: int | None = None) -> Iterator[Conversation]:
    """A question about every function of the library, whose code has 80 to `max_characters` characters, by file."""
    for name, kind, code, own in _all_functions(_root()):
        if len(code) >= 80 and (max_characters is None or len(code) <= max_characters):
            messages = [{"role": "user", "content": REQUEST[kind].format(code=code)}]
            messages += [{"role": "assistant", "content": own}] if own else []
            yield {"source": name, "kind": kind, "messages": messages}


def modules(holding: str = "") -> Iterator[tuple[str, str, ast.Module]]:
    """Path below the library, text and syntax tree of each of its files; of those alone that hold a text."""
    root = _root()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if any(part in SKIPPED for part in relative.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            if holding in source:
                yield relative.as_posix(), source, ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


@cache
def _all_functions(root: Path) -> list[tuple[str, str, str, str | None]]:
    """(file, kind, code to quote, author's answer) of each function of the library at `root`: parsing takes seconds."""
    return [(name, *each) for name, source, tree in modules() for each in _functions(Path(name).name, source, tree)]


def _functions(file: str, source: str, tree: ast.Module) -> Iterator[tuple[str, str, str | None]]:
    """(kind, code to quote, author's answer) of each function."""
    lines = source.split("\n")  # as the tree counts them: a form feed ends none
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
            continue
        docstring = ast.get_docstring(node)
        kind = _kind(f"{file}:{node.name}", docstring is not None)
        quoted = _quoted(lines[node.lineno - 1 : node.end_lineno])
        shown = (node.body[0].end_lineno or 0) - node.lineno + 1 if kind == "write" else len(quoted)
        body = "\n".join(quoted[shown:]).strip("\n")
        own = docstring if kind == "explain" else CODE.format(code=body) if body else None
        yield kind, "\n".join(quoted[:shown]).rstrip(), own


def _kind(name: str, documented: bool) -> str:
    """By a hash of the function's name, so that the kinds share no function."""
    byte = hashlib.sha256(name.encode()).digest()[0]
    if documented:
        return "write" if byte % 2 else "explain"
    return "annotate" if byte % 3 else "explain"


def _quoted(lines: list[str]) -> list[str]:
    """Lines of a function, moved to the left margin."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    return [line[margin:] if line[:margin].isspace() or not margin else line for line in lines]
