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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from transformers import AutoTokenizer

from drafter.answers import Store
from drafter.data.conversations import as_prompt, gather
from drafter.evaluation.race import timed
from drafter.files import write_json
from drafter.machine.devices import choose_device
from drafter.regenerate import regenerate
from drafter.sources import BadRows, File, Hub, Source
from drafter.verifier import Verifier
from drafter.verifier.chat import answer_ids, prompt_ids, render
from drafter.verifier.conversion import resolve

WORDS = "the a list of rows is read as long as there are any and each one becomes what it says or an error"


@dataclass
class Material:
    """What the stages work on.

    Args:
        folder: for files.
        verifier: its source.
        conversations: in memory, as sources yield them.
    """

    folder: Path
    verifier: str
    tokenizer: Any
    conversations: list[dict[str, Any]]


Work = Callable[[], int | tuple[int, int]]  # what it did: rows, or rows and tokens
Stage = tuple[str, Callable[[Material], Work]]  # name, and: make ready → work


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


def questions(material: Material, count: int) -> list[dict[str, Any]]:
    return [
        {"source": str(at), "kind": "chat", "prompt": one["messages"][0]["content"][:100]}
        for at, one in enumerate(material.conversations[:count])
    ]


def regenerated(material: Material) -> Work:
    """Greedy answers of the verifier here in float32, a thousandth of the rows, up to 48 tokens each."""
    verifier = Verifier.load(material.verifier, torch.float32, choose_device("auto"))
    asked = questions(material, max(1, len(material.conversations) // 1000))

    def work() -> tuple[int, int]:
        with tempfile.TemporaryDirectory(dir=material.folder) as folder:
            summary = regenerate(verifier, asked, Path(folder) / "answers", max_new_tokens=48, batch_size=32)
        return summary["rows"], summary["tokens"]

    return work


def kept(material: Material) -> Work:
    """Keeping prompts and answers that cost nothing: journal, shards, checksums."""
    asked = questions(material, len(material.conversations))
    row = {"kind": "chat", "answer_ids": list(range(128)), "stop": "stop"}

    def work() -> tuple[int, int]:
        with tempfile.TemporaryDirectory(dir=material.folder) as folder, Store(Path(folder) / "answers", {}) as store:
            store.draw(asked, {})
            for shard in store.unfinished():
                for number in shard.missing:
                    shard.add(number, [row | {key: shard.prompts[number][key] for key in ("source", "prompt")}])
                shard.finish()
            summary = store.finish()
        return summary["rows"], summary["tokens"]

    return work


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
    ("answers: kept in a journal, then in shards", kept),
    ("answers: regenerated by the verifier here", regenerated),
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
    return Material(folder, verifier, AutoTokenizer.from_pretrained(resolve(verifier)), found)


def measure(work: Work, repeats: int) -> dict[str, float]:
    """Rows, tokens, and median seconds; one run goes before and is not counted."""
    done, taken = work(), []
    rows, tokens = done if isinstance(done, tuple) else (done, 0)
    for _ in range(repeats):
        taken.append(timed(torch.device("cpu"), work)[0])
    seconds = statistics.median(taken)
    speeds = {"rows_per_second": rows / seconds, "tokens_per_second": tokens / seconds}
    return {"rows": rows, "tokens": tokens, "seconds": seconds, **speeds}


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
        print("| stage | rows | rows per second | tokens per second |\n|---|---|---|---|")
        for name, ready in STAGES:
            found[name] = one = measure(ready(material), options.repeats)
            tokens = f"{one['tokens_per_second']:.0f}" if one["tokens"] else ""
            print(f"| {name} | {one['rows']} | {one['rows_per_second']:.4g} | {tokens} |", flush=True)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        write_json(options.json, {"settings": settings, "stages": found})


if __name__ == "__main__":
    main()
