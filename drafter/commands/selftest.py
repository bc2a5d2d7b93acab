"""Train → export → check → decode on a random verifier, in a scratch folder: does this installation work?"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from drafter.machine.environment import Fact

PROMPTS = 32
SETTINGS = (
    "training.max_steps=8",
    "training.validate_every=4",
    "data.validation_rows=4",
    "decoding.prompts=1",
    "decoding.max_new_tokens=12",
)


def self_test() -> Fact:
    """Run every stage of the recipe `tiny`; a fault names the stage and its error."""
    began, stage = time.perf_counter(), ""
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet(Path(folder)):
            for stage in STAGES:
                STAGES[stage](Path(folder))
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        return Fact("self-test", "fault", f"{stage}: {type(error).__name__}: {' '.join(str(error).split())}")
    seconds = time.perf_counter() - began
    return Fact("self-test", "ok", f"{', '.join(STAGES)}: greedy tokens equal plain decoding's; {seconds:.0f} s")


def _words(folder: Path) -> list[str]:
    sources = f"data.sources=[{{kind: file, path: '{folder / 'prompts.jsonl'}'}}]"
    return [f"output={folder}", f"data.answers={folder / 'answers.parquet'}", sources, *SETTINGS]


def _regenerate(folder: Path) -> None:
    from drafter.config import load
    from drafter.regenerate import regenerate_recipe

    prompts = [json.dumps({"prompt": f"Say {number} in words."}) for number in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts))
    config = load("tiny", _words(folder))
    regenerate_recipe(config, Path(config.data.answers), lambda done, total: None)


def _train(folder: Path) -> None:
    from drafter.config import load
    from drafter.training.runs import run

    found = run(load("tiny", _words(folder)))
    if found["greedy_mismatches"]:
        raise RuntimeError(f"{found['greedy_mismatches']} greedy tokens are not the verifier's")


def _check(folder: Path) -> None:
    from drafter.check import check

    report = check(str(folder / "tiny/export"), "tiny-llama", dynamic=False)
    if not report.ok:
        raise RuntimeError(str(report))


def _decode(folder: Path) -> None:
    from drafter import BlockDiffusionDrafter, SpeculativeDecoder, Verifier

    verifier = Verifier.load("tiny-llama")
    drafter = BlockDiffusionDrafter.from_pretrained(folder / "tiny/export", dtype=verifier.dtype)
    prompts = [verifier.chat_ids("hello")]
    plain, drafted = (
        one.generate(prompts, 12)[0].token_ids
        for one in (SpeculativeDecoder(verifier), SpeculativeDecoder(verifier, drafter))
    )
    if plain != drafted:
        raise RuntimeError("the exported drafter's tokens are not the verifier's")


STAGES = {"regenerate": _regenerate, "train and export": _train, "check": _check, "decode": _decode}


@contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Without progress bars and logs, and with a cache of its own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            patch.dict(os.environ, {"BLOCK_DRAFTER_CACHE": str(folder / "cache")}),
            (folder / "output").open("w") as output,
            redirect_stdout(output),
            redirect_stderr(output),
        ):
            yield
    finally:
        logging.disable(before)
