"""Functions of the standard library with examples in their docstrings: write the body, the examples are the tests."""

import ast
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from drafter.evaluation.rewards.base import Task
from drafter.evaluation.rewards.sandbox import Limits, require_sandbox, run_all
from drafter.evaluation.rewards.unit_tests import program_of
from drafter.sources.standard_library import REQUEST, modules

SETUP = """
import importlib
_module = vars(importlib.import_module({module!r}))
globals().update({{name: value for name, value in _module.items() if not name.startswith("__")}})
globals().pop({entry!r})
"""
CHECK = """
import contextlib, doctest, io, traceback
_examples, _checker = doctest.DocTestParser().get_examples({docstring!r}), doctest.OutputChecker()
assert _examples
for _example in _examples:
    _printed, _raised = io.StringIO(), None
    with contextlib.redirect_stdout(_printed):
        try:
            exec(compile(_example.source, "<example>", "single"))
        except Exception as _error:
            _raised = traceback.format_exception_only(_error)[-1]
    _flags = sum(flag for flag, on in _example.options.items() if on)
    assert _raised == _example.exc_msg, f"{{_example.source}} raised {{_raised}}"
    _same = _raised or _checker.check_output(_example.want, _printed.getvalue(), _flags)
    assert _same, f"{{_example.source}} gave {{_printed.getvalue()}}"
"""
LONGEST = 1200  # characters of a signature with its docstring


def doctests(count: int, seed: int) -> list[Task]:
    """Tasks whose own source passes its examples in the sandbox; scored by `unit_tests`.

    The function may use what its module holds, as the library's own does.

    Raises:
        ValueError: programs can't be confined on this machine.
    """
    require_sandbox()
    tasks = _sound()
    return random.Random(seed).sample(tasks, min(count, len(tasks)))


@cache
def _sound() -> list[Task]:
    found = list(_candidates())
    passed = run_all([program_of(task, source) for task, source in found], Limits(seconds=10.0))
    return [task for (task, _), one in zip(found, passed, strict=True) if one.passed]


def _candidates() -> Iterator[tuple[Task, str]]:
    """Tasks with the library's own source."""
    for name, text, tree in modules(holding=">>>"):
        parts = [part for part in Path(name).with_suffix("").parts if part != "__init__"]
        lines = text.split("\n")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.decorator_list and node.end_lineno is not None:
                docstring = ast.get_docstring(node)
                shown = "\n".join(lines[node.lineno - 1 : node.body[0].end_lineno])
                if docstring and ">>>" in docstring and len(shown) <= LONGEST:
                    source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                    task = Task(
                        name,
                        REQUEST["write"].format(code=shown),
                        entry=node.name,
                        signature=shown,
                        setup=SETUP.format(module=".".join(parts), entry=node.name),
                        check=CHECK.format(docstring=docstring),
                    )
                    yield task, source
