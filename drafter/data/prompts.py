"""Prompts from the Python standard library: nothing to download, split by file."""

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

KINDS = ("write", "explain", "annotate")
SKIPPED = ("test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "__phello__")

REQUEST = {
    "write": "Write the body of this Python function.\n\n```python\n{code}\n```",
    "explain": "Explain in a few sentences what this Python function does.\n\n```python\n{code}\n```",
    "annotate": "Add type hints and a docstring to this Python function.\n\n```python\n{code}\n```",
}

Prompt = dict[str, str]


def standard_library(counts: Mapping[str, int], max_characters: int, seed: int) -> list[Prompt]:
    """Draw prompts from the functions of the running Python's standard library.

    Args:
        counts: prompts of each kind; a function serves one kind only.
        max_characters: longest code quoted in a prompt.
    Returns:
        dicts with `source` (file), `kind` and `prompt`, shuffled by `seed`.
    Raises:
        ValueError: the library has too few functions of that size.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, list[Prompt]] = {kind: [] for kind in KINDS}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not any(part in SKIPPED for part in relative.parts):
            for kind, code in _functions(path):
                if 80 <= len(code) <= max_characters:
                    text = REQUEST[kind].format(code=code)
                    found[kind].append({"source": relative.as_posix(), "kind": kind, "prompt": text})
    picked: list[Prompt] = []
    for kind, prompts in found.items():
        count = counts.get(kind, 0)
        unique = list({prompt["prompt"]: prompt for prompt in prompts}.values())
        if len(unique) < count:
            raise ValueError(
                f"data.prompts.{kind}={count}: the standard library has {len(unique)} functions for it; "
                "lower it or raise data.max_prompt_characters"
            )
        picked += random.Random(f"{seed} {kind}").sample(unique, count)
    random.Random(seed).shuffle(picked)
    return picked


def _functions(path: Path) -> Iterator[tuple[str, str]]:
    """(kind, code to quote) of each function; its name decides the kind, so that the kinds share no function."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.end_lineno is None:
            continue
        documented = ast.get_docstring(node) is not None
        name_hash = hashlib.sha256(f"{path.name}:{node.name}".encode()).digest()[0]
        kind = ("write" if name_hash % 2 else "explain") if documented else ("annotate" if name_hash % 3 else "explain")
        last = node.body[0].end_lineno if kind == "write" else node.end_lineno
        code = lines[node.lineno - 1 : last]
        margin = len(code[0]) - len(code[0].lstrip())
        yield (
            kind,
            "\n".join(line[margin:] if line[:margin].isspace() or not margin else line for line in code).rstrip(),
        )
