"""Tasks that can be scored, made here or found on the machine: pick by name."""

import random
from collections.abc import Callable
from dataclasses import fields
from functools import cache

from drafter.evaluation.rewards.base import Task
from drafter.evaluation.rewards.doctests import doctests
from drafter.evaluation.suites import evenly, records
from drafter.sources.standard_library import questions_of

FIELDS = tuple(field.name for field in fields(Task))


def arithmetic(count: int, seed: int) -> list[Task]:
    """Sums and differences of numbers below 100, each once; scored by `exact_match`."""
    pairs = [(one, sign, other) for one in range(1, 100) for other in range(1, 100) for sign in "+-" if one >= other]
    return [
        Task(f"{one} {sign} {other}", f"What is {one} {sign} {other}? Answer in one short sentence.", str(value))
        for one, sign, other in random.Random(seed).sample(pairs, min(count, len(pairs)))
        for value in (one + other if sign == "+" else one - other,)
    ]


def sums(count: int, seed: int) -> list[Task]:
    """Sums of two numbers below 10, 81 in all, for models that know no more; scored by `exact_match`."""
    pairs = [(one, other) for one in range(1, 10) for other in range(1, 10)]
    return [
        Task(f"{one} + {other}", f"What is {one} + {other}?", str(one + other))
        for one, other in random.Random(seed).sample(pairs, min(count, len(pairs)))
    ]


WORDINGS = (
    "What is {} + {}?",
    "What is {} plus {}?",
    "{} + {} = ?",
    "Add {} and {}.",
    "Calculate {} + {}.",
    "Please add {} + {}.",
    "What does {} + {} equal?",
    "Solve {} + {}.",
    "What number is {} + {}?",
    "{} plus {} equals what?",
    "{} + {} is what?",
    "What is the result of {} + {}?",
)


def worded_sums(count: int, seed: int) -> list[Task]:
    """The same sums in twelve wordings, 972 prompts in all, each a source of its own; scored by `exact_match`.

    More prompts than sums: what is held out is a wording of a sum, and another one of it may be trained on.
    """
    prompts = {
        wording.format(one, other): str(one + other)
        for wording in WORDINGS
        for one in range(1, 10)
        for other in range(1, 10)
    }
    drawn = random.Random(seed).sample(list(prompts), min(count, len(prompts)))
    return [Task(prompt, prompt, prompts[prompt]) for prompt in drawn]


def explanations(count: int, seed: int) -> list[Task]:
    """Functions of the standard library to be explained, their docstring the reference; scored by `rouge_2`."""
    return random.Random(seed).sample(_documented(), min(count, len(_documented())))


@cache
def _documented() -> list[Task]:
    return [
        Task(made["source"], made["messages"][0]["content"], made["messages"][1]["content"])
        for made in questions_of(600)
        if made["kind"] == "explain" and len(made["messages"]) == 2
    ]


def humaneval(count: int, seed: int) -> list[Task]:
    """HumanEval (arXiv:2107.03374): for evaluation only; scored by `unit_tests`."""
    tasks = [
        Task(
            record["task_id"],
            f"Complete this Python function.\n\n```python\n{record['prompt'].rstrip()}\n```",
            entry=record["entry_point"],
            signature=record["prompt"],
            check=f"{record['test']}\ncheck({record['entry_point']})",
        )
        for _, record in records("humaneval")
    ]
    return list(evenly(tasks, count))


TASKS: dict[str, Callable[[int, int], list[Task]]] = {
    "arithmetic": arithmetic,
    "sums": sums,
    "worded_sums": worded_sums,
    "doctests": doctests,
    "explanations": explanations,
}
"""What may be trained on; each by (count, seed)."""


def load_tasks(kind: str, count: int, seed: int) -> list[Task]:
    """Tasks of a kind, or from a JSONL file with a field `prompt` and others of `Task`; drawn by `seed`.

    Raises:
        ValueError: there is no such kind or file, or a line is no task.
    """
    if kind in TASKS:
        return TASKS[kind](count, seed)
    if not kind.endswith(".jsonl"):
        raise ValueError(f"tasks.kind={kind!r}: choose one of {', '.join(TASKS)}, or name a JSONL file")
    found = []
    for number, record in records(kind):
        known = {"source": f"{kind}/{number}", **{name: value for name, value in record.items() if name in FIELDS}}
        if not all(isinstance(value, str) for value in known.values()) or not known.get("prompt", "").strip():
            raise ValueError(f"tasks.kind={kind!r}: line {number} has no text in `prompt`, or other fields than text")
        found.append(Task(**known))
    return random.Random(seed).sample(found, min(count, len(found)))


def split_tasks(tasks: list[Task]) -> tuple[list[Task], list[Task], list[Task]]:
    """Those to train on, to validate by, to test by: no source is in two of them, in whichever run."""
    parts = ("training", "validation", "test")
    training, validation, test = ([one for one in tasks if one.part == part] for part in parts)
    return training, validation, test
