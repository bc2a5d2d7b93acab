"""One word, one idea: a bare name in the code means one thing wherever it stands."""

import ast
import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

from drafter.config import DrafterSettings

ROOT = Path(__file__).parent.parent
FILES = {
    path: ast.parse(path.read_text()) for folder in ("drafter", "losses") for path in (ROOT / folder).rglob("*.py")
}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def definitions():
    """Public classes and functions: name → the modules that define it."""
    found = defaultdict(set)
    for path, tree in FILES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name, type(node)].add(module_of(path))
    return found


def imported():
    """Every `from module import name` of our own, wherever it stands: (module, name)."""
    for tree in FILES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("drafter", "losses"):
                yield from ((node.module, one.name) for one in node.names if one.asname is None)


def test_no_two_classes_have_one_name():
    assert {
        name: where for (name, kind), where in definitions().items() if kind is ast.ClassDef and len(where) > 1
    } == {}


def test_a_function_that_is_imported_by_its_bare_name_has_no_double():
    """`tables.read` and `answers.read` say which; where a bare `read` is imported from two modules, no reader knows."""
    where = defaultdict(set)
    for (name, _), modules in definitions().items():
        where[name] |= modules
    doubled = defaultdict(set)
    for module, name in imported():
        origins = {one for one in where.get(name, ()) if one == module or one.startswith(f"{module}.")}
        if len(where.get(name, ())) > 1 and module not in where:
            doubled[name] |= origins
    assert {name: sorted(origins) for name, origins in doubled.items() if len(origins) > 1} == {}


def test_what_words_name_is_there():
    """`drafter.decode.text` in a docstring or a comment is a module of ours, or a name that one defines."""
    modules, defined = {module_of(path) for path in FILES}, {}
    for path, tree in FILES.items():
        names = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        defined[module_of(path)] = {one.name for one in names}
    settings = {each.name for each in fields(DrafterSettings)}  # `drafter.vocabulary` of a recipe
    for path in FILES:
        for name in re.findall(r"`((?:drafter|losses)(?:\.\w+)+)`", path.read_text()):
            module, _, last = name.rpartition(".")
            there = name in modules or last in defined.get(module, ()) or name in {f"drafter.{key}" for key in settings}
            assert there, f"{path}: {name}"
