"""Rows per second of each stage of the data, from files to training rows.

    python benchmarks/data.py [--rows 20000] [--verifier smollm2] [--repeats 3] [--json FILE]

Conversations are made up: two questions and two answers of some 60 words each. Medians over the repeats.
"""

import argparse
import gzip
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from transformers import AutoTokenizer

from drafter.chat import answer_ids, prompt_ids, render
from drafter.conversion import resolve
from drafter.data.conversations import as_prompt, gather
from drafter.sources import BadRows, File, Hub, Source

WORDS = "the a list of rows is read as long as there are any and each one becomes what it says or an error"


@dataclass
class Material:
    """What the stages work on.

    Args:
        folder: for files.
        conversations: in memory, as sources yield them.
    """

    folder: Path
    tokenizer: Any
    conversations: list[dict[str, Any]]


Stage = tuple[str, Callable[[Material], Callable[[], int]]]  # name, and: make ready → work, which returns its rows


def from_source(made: Callable[[Material], Source]) -> Callable[[Material], Callable[[], int]]:
    """Reading a source to its end."""

    def ready(material: Material) -> Callable[[], int]:
        source = made(material)
        return lambda: sum(1 for _ in source.conversations(0, BadRows("fail")))

    return ready


def gathered(material: Material) -> Callable[[], int]:
    source = File(path=str(material.folder / "rows.jsonl"))
    return lambda: sum(1 for each in gather([source], 0, BadRows("fail"), lambda count: []) if as_prompt(each))


def rendered(what: Callable[[Any, list[dict[str, Any]]], Any]) -> Callable[[Material], Callable[[], int]]:
    """Putting conversations into the chat template."""

    def ready(material: Material) -> Callable[[], int]:
        some = material.conversations[: max(1, len(material.conversations) // 10)]
        return lambda: sum(1 for one in some if what(material.tokenizer, one["messages"]))

    return ready


STAGES: list[Stage] = [
    ("read JSONL", from_source(lambda material: File(path=str(material.folder / "rows.jsonl")))),
    ("read JSONL.gz", from_source(lambda material: File(path=str(material.folder / "rows.jsonl.gz")))),
    ("read Parquet", from_source(lambda material: File(path=str(material.folder / "rows.parquet")))),
    (
        "read JSONL by datasets, streamed",
        from_source(lambda material: Hub(dataset=str(material.folder / "hub"), streaming=True)),
    ),
    ("gather: each question once, as prompts", gathered),
    ("template: prompt of the last turn", rendered(lambda tokenizer, messages: prompt_ids(tokenizer, messages[:-1]))),
    (
        "template: last answer, exact",
        rendered(lambda tokenizer, messages: answer_ids(tokenizer, messages, keep_reasoning=True)),
    ),
    (
        "template: whole conversation with spans",
        rendered(lambda tokenizer, messages: render(tokenizer, messages, keep_reasoning=True)),
    ),
]


def make_material(folder: Path, verifier: str, rows: int) -> Material:
    """Conversations, in memory and in files."""
    draw = random.Random(0)

    def turn(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(draw.choices(WORDS.split(), k=60))}

    records = [{"messages": [turn(role) for role in ("user", "assistant") * 2]} for _ in range(rows)]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    (folder / "rows.jsonl").write_bytes(lines)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_bytes(lines)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "rows.parquet", compression="zstd")
    found = list(File(path=str(folder / "rows.jsonl")).conversations(0, BadRows("fail")))
    return Material(folder, AutoTokenizer.from_pretrained(resolve(verifier)), found)


def measure(work: Callable[[], int], repeats: int) -> dict[str, float]:
    """Rows, and median seconds; one run goes before and is not counted."""
    rows, taken = work(), []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    seconds = statistics.median(taken)
    return {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--verifier", default="smollm2", help="whose tokenizer and chat template")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        material = make_material(Path(folder), options.verifier, options.rows)
        print("| stage | rows | rows per second |\n|---|---|---|")
        for name, ready in STAGES:
            found[name] = one = measure(ready(material), options.repeats)
            print(f"| {name} | {one['rows']} | {one['rows_per_second']:.0f} |", flush=True)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(json.dumps({"settings": settings, "stages": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
