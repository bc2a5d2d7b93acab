"""Prompts from the standard library, here from a few of its files."""

import ast
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from drafter.sources import BadRows, StandardLibrary
from drafter.sources.standard_library import KINDS, REQUEST, SKIPPED, _functions

COUNTS = {"write": 30, "explain": 20, "annotate": 10}
FILES = ["textwrap.py", "statistics.py", "shutil.py", "inspect.py", "pathlib.py", "ast.py", "json/decoder.py"]
FUNCTION = (
    'def {name}(number):\n    """What it does, at such a length that it can be quoted."""\n    return number + 1\n'
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Some files of the standard library, and some that are to be passed over."""
    root = tmp_path_factory.mktemp("library")
    for name in FILES:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(Path(sysconfig.get_path("stdlib")) / name, root / name)
    for folder in SKIPPED:
        (root / folder).mkdir()
        (root / folder / "passed_over.py").write_text(FUNCTION.format(name="passed_over"))
    (root / "broken.py").write_text(FUNCTION.format(name="broken") + "def (:\n")
    (root / "latin.py").write_bytes(FUNCTION.format(name="latin").replace("What", "\u00e9").encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sysconfig, "get_path", lambda name: str(root))
        yield root


@pytest.fixture(scope="module")
def prompts(library):
    return draw(COUNTS, 0)


def draw(counts, seed):
    return list(StandardLibrary(**counts, max_characters=400).conversations(seed, BadRows()))


def asked(prompt):
    return prompt["messages"][0]["content"]


def bare(function):
    """A function without its decorators and its docstring, whose blanks move with the margin."""
    function.decorator_list, function.body = [], function.body[bool(ast.get_docstring(function)) :]
    return ast.unparse(function)


def functions_of(path):
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return [bare(node) for node in found if len(node.body) > 1]


def quoted(prompt):
    """The code in a prompt."""
    return asked(prompt).split("```python\n")[1].removesuffix("\n```")


def test_each_kind_has_its_count_and_the_kinds_are_mixed(prompts):
    assert Counter(prompt["kind"] for prompt in prompts) == COUNTS
    assert len({prompt["kind"] for prompt in prompts[:20]}) == 3


def test_prompts_quote_what_their_kind_asks_about(prompts):
    for prompt in prompts:
        code = quoted(prompt)
        assert asked(prompt) == REQUEST[prompt["kind"]].format(code=code)
        assert 80 <= len(code) <= 400
        (function,) = ast.parse(code).body
        assert isinstance(function, ast.FunctionDef)
        if prompt["kind"] == "write":  # signature and docstring, no body
            assert len(function.body) == 1
            assert ast.get_docstring(function)
        if prompt["kind"] == "annotate":
            assert not ast.get_docstring(function)


def test_authors_answer_where_they_did(prompts, library):
    """A body or a docstring, word for word; nobody has annotated what stands there bare."""
    answered = {kind: 0 for kind in KINDS}
    for prompt in prompts:
        code, kind, own = quoted(prompt), prompt["kind"], prompt["messages"][1:]
        (function,) = ast.parse(code).body
        if kind == "annotate" or (kind == "explain" and not ast.get_docstring(function)):
            assert own == []
        elif kind == "explain":
            assert own == [{"role": "assistant", "content": ast.get_docstring(function)}]
        elif own:
            body = own[0]["content"].removeprefix("```python\n").removesuffix("\n```")
            (whole,) = ast.parse(f"{code}\n{body}").body
            assert bare(whole) in functions_of(library / prompt["source"])
        answered[kind] += bool(own)
    assert answered["write"] > 20
    assert answered["explain"] > 0


def test_prompts_name_the_file_that_they_quote(prompts, library):
    assert len({prompt["source"] for prompt in prompts}) > 4
    for prompt in prompts:
        assert prompt["source"] in FILES
        assert f"def {ast.parse(quoted(prompt)).body[0].name}(" in (library / prompt["source"]).read_text()


def test_no_function_is_asked_about_twice(prompts):
    assert len({quoted(prompt) for prompt in prompts}) == len(prompts)


def test_prompts_are_a_function_of_the_seed(prompts):
    assert draw(COUNTS, 0) == prompts
    assert draw(COUNTS, 1) != prompts


def test_more_than_the_library_has_is_refused(library):
    with pytest.raises(
        ValueError, match=r"data\.sources: annotate=5000: the standard library has \d+ functions for it"
    ):
        draw({"annotate": 5000}, 0)


def test_kinds_are_those_of_the_requests():
    assert set(REQUEST) == set(KINDS)


def test_a_form_feed_moves_no_function():
    source = '"""One."""\n\x0c\nTEXT = "a\u2028b"\n\n\ndef first(x):\n    """One."""\n    return x\n'
    ((_, quoted, _),) = _functions("a.py", source, ast.parse(source))
    assert quoted.startswith("def first(x):")
