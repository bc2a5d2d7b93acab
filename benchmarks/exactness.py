"""Greedy decoding with drafts against greedy decoding without, on hundreds of prompts: which answers differ, and why.

Every batch is written as soon as it is decoded, so that a run that was stopped goes on with the next.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from drafter.data.rows import Row, split
from drafter.decode import Generation, SpeculativeDecoder
from drafter.evaluation.agreement import TIE, first_difference, margin
from drafter.evaluation.suites import evenly, load_suite
from drafter.export.record import provenance, read_record
from drafter.files import write_json
from drafter.models import BlockDiffusionDrafter
from drafter.sources.standard_library import functions
from drafter.verifier import Verifier

LIBRARY = "standard library"
LIBRARY_PROMPTS = {"write": 1000, "explain": 1000, "annotate": 1000}
VERDICTS = ("same", "tie", "explained", "mismatch")


def check_exactness(options: argparse.Namespace) -> None:
    """Decode all prompts both ways in each dtype; exit code 1 after a mismatch that nothing explains."""
    path = options.out / "exactness.jsonl"
    settings = {
        "drafter": str(options.drafter),
        "verifier": options.verifier,
        "max_new_tokens": options.max_new_tokens,
        "draft_length": options.draft_length,
        "batch_size": options.batch_size,
        "prompts": options.prompts or 80,
        "suites": options.suites,
        "device": options.devices[-1],
    }
    known = read(path, settings)
    summary: dict[str, Any] = {}
    for name in options.dtypes:
        done = {(one["suite"], one["index"]): one for one in known if one["dtype"] == name}
        for one in decode(options, name, path, done):
            done[one["suite"], one["index"]] = one
        summary[name] = summarise(list(done.values()))
        print(f"{name}: {describe(summary[name])}")
        for one in done.values():
            if one["verdict"] != "same":
                print(
                    f"  {one['verdict']}: {one['suite']} {one['index']}, token {one['place'] + 1}, the two best logits "
                    f"{one['margin']:.3g} apart"
                )
    write_json(options.out / "exactness.json", {"dtypes": summary, "settings": settings, "provenance": provenance()})
    if any(one["mismatch"] for one in summary.values()):
        raise SystemExit(1)


def read(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier run of the same settings found; its last line may be cut off.

    Raises:
        SystemExit: the file is of other settings.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    if not lines:
        write(path, [{"settings": settings}])
        return []
    if json.loads(lines[0]).get("settings") != settings:
        raise SystemExit(f"error: {path} is of other settings; choose another directory or delete it")
    found = []
    for line in lines[1:]:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            path.write_text("".join(f"{json.dumps(one)}\n" for one in [{"settings": settings}, *found]))
            break
    return found


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """Append records and see them onto the disk."""
    with path.open("a") as file:
        file.writelines(f"{json.dumps(one)}\n" for one in records)
        file.flush()
        os.fsync(file.fileno())


def prompts_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Prompts of the suites, and as many from files of the standard library that training held out."""
    count = options.prompts or 80
    found = {name: [one["prompt"] for one in evenly(load_suite(name), count)] for name in options.suites}
    data = read_record(Path(options.drafter)).get("recipe", {}).get("data", {})
    library = functions(LIBRARY_PROMPTS, 800, seed=1)
    rows = [Row.of([i], [i], one["source"]) for i, one in enumerate(library)]
    _, held_out = split(rows, data.get("validation_share", 0.1))
    found[LIBRARY] = [library[row.ids[0]]["messages"][0]["content"] for row in held_out[:count]]
    return found


def decode(
    options: argparse.Namespace, dtype: str, path: Path, done: dict[tuple[str, int], Any]
) -> Iterator[dict[str, Any]]:
    """The prompts that are not done, a batch at a time; yields their records once they are on disk."""
    todo = [(suite, i, text) for suite, texts in prompts_of(options).items() for i, text in enumerate(texts)]
    todo = [one for one in todo if one[:2] not in done]
    if not todo:
        return
    device = options.devices[-1]
    verifier = Verifier.load(options.verifier, getattr(torch, dtype), device, options.attention)
    drafter = BlockDiffusionDrafter.from_pretrained(options.drafter, dtype=verifier.dtype, device=device)
    plain = SpeculativeDecoder(verifier)
    drafted = SpeculativeDecoder(verifier, drafter, draft_length=options.draft_length)
    with tqdm(total=len(todo), desc=dtype, unit="prompt") as bar:
        for at in range(0, len(todo), options.batch_size):
            some = todo[at : at + options.batch_size]
            ids = [verifier.chat_ids(text) for *_, text in some]
            both = [decoder.generate(ids, options.max_new_tokens, batch_size=len(ids)) for decoder in (plain, drafted)]
            records = [
                {"dtype": dtype, "suite": suite, "index": i} | judge(verifier, prompt, one, other, options.bound)
                for (suite, i, _), prompt, one, other in zip(some, ids, *both, strict=True)
            ]
            write(path, records)
            bar.update(len(records))
            yield from records


def judge(
    verifier: Verifier, prompt: list[int], plain: Generation, drafted: Generation, bound: float
) -> dict[str, Any]:
    """Where two answers part, and whether the verifier's logits explain it.

    A margin below `TIE` is a tie in any precision; in half precision one of at most `bound` is `explained`.
    """
    place = first_difference(plain.token_ids, drafted.token_ids)
    found: dict[str, Any] = {
        "tokens": len(plain.token_ids),
        "emitted": sum(drafted.emitted),
        "cycles": len(drafted.emitted),
        "verdict": "same",
    }
    if place is None:
        return found
    between = margin(verifier, prompt + plain.token_ids[:place])
    half = verifier.dtype != torch.float32
    verdict = "tie" if between < TIE else "explained" if half and between <= bound else "mismatch"
    return found | {"place": place, "margin": between, "verdict": verdict}


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the verdicts, and the largest margin at which answers parted."""
    counts = {verdict: sum(one["verdict"] == verdict for one in records) for verdict in VERDICTS}
    margins = [one["margin"] for one in records if "margin" in one]
    cycles = sum(one["cycles"] for one in records)
    return counts | {
        "prompts": len(records),
        "tokens": sum(one["tokens"] for one in records),
        "tokens_per_cycle": sum(one["emitted"] for one in records) / cycles if cycles else None,
        "largest_margin": max(margins, default=0.0),
    }


def describe(summary: dict[str, Any]) -> str:
    text = (
        f"{summary['mismatch']} mismatches, {summary['tie']} ties in {summary['prompts']} prompts, "
        f"{summary['tokens']} tokens; {summary['tokens_per_cycle']:.3f} tokens per cycle"
    )
    explained = f"; {summary['explained']} more part where the logits are within {summary['largest_margin']:.3g}"
    return text + (explained if summary["explained"] else "")
