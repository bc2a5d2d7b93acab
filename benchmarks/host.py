"""What `evaluate` does beside the models' passes, per cycle, in the thread's own time, which no other program adds to.

Run with one torch thread (OMP_NUM_THREADS=1): passes and host work then share the thread that is timed.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drafter.evaluation.asking import Asked, SuiteRun
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.diagnosis import diagnosis
from drafter.evaluation.passages import passages
from drafter.evaluation.slots import observe_all
from drafter.evaluation.suites import evenly, read_cases, read_suite
from drafter.export.record import hardware, provenance
from drafter.files import write_json
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier
from drafter.verifier.output import OutputHead


class Passes:
    """Time of the thread inside the models: layers, heads, the drafter's reading and drafting."""

    WATCHED = (
        (Verifier, "step"),
        (Verifier, "states"),
        (OutputHead, "__call__"),
        (BlockDiffusionDrafter, "draft"),
        (BlockDiffusionDrafter, "extend"),
        (BlockDiffusionDrafter, "forward"),
    )

    def __init__(self) -> None:
        self.seconds, self.inside = 0.0, False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Time the models while the block runs."""
        own = [getattr(kind, name) for kind, name in self.WATCHED]
        for (kind, name), function in zip(self.WATCHED, own, strict=True):
            setattr(kind, name, self._timed(function))
        try:
            yield
        finally:
            for (kind, name), function in zip(self.WATCHED, own, strict=True):
                setattr(kind, name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if self.inside:  # one within another counts once
                return function(*arguments, **settings)
            self.inside, start = True, time.thread_time()
            try:
                return function(*arguments, **settings)
            finally:
                self.seconds += time.thread_time() - start
                self.inside = False

        return call


def measure(run: Callable[[], Any], cycles: Callable[[Any], int]) -> tuple[Any, dict[str, float]]:
    """What `run` returned, and per cycle the milliseconds inside the models and beside them."""
    passes, start = Passes(), time.thread_time()
    with passes.watch():
        found = run()
    whole, count = time.thread_time() - start, cycles(found)
    ms = {"passes_ms": 1e3 * passes.seconds / count, "host_ms": 1e3 * (whole - passes.seconds) / count}
    return found, {"cycles": count, **ms}


def profile(options: argparse.Namespace) -> None:
    """Decode, observe and diagnose a suite, at each batch size, and say what the host took."""
    torch.set_num_threads(1)
    suite = read_suite(options.suite)
    cases = evenly(read_cases(suite), options.prompts)
    verifier = Verifier.load(options.verifier)
    drafter = BlockDiffusionDrafter.beside(str(options.drafter), verifier)
    asked = [Asked(case, 1, verifier.chat_ids(case.turns[0])) for case in cases]
    prompts = [one.ids for one in asked]
    lines: list[dict[str, Any]] = []
    decode = Decoding().decoder(verifier, drafter, None)
    decode(prompts[:1], max_new_tokens=8)  # warm up
    for size in options.batch_sizes:
        answers, line = measure(
            partial(decode, prompts, max_new_tokens=options.max_new_tokens, batch_size=size),
            lambda found: Cycles.of(found).count,
        )
        lines.append({"what": f"decoding, batch {size}", **line})
    cycles = Cycles.of(answers, drafter.draft_length)
    observed, line = measure(lambda: list(observe_all(verifier, drafter, prompts, answers)), lambda _: cycles.count)
    lines.append({"what": "slots observed", **line})
    text_of = verifier.tokenizer.decode
    answered = SuiteRun(asked, answers, cycles, observed)
    for what, run in (
        ("slots diagnosed", lambda: diagnosis(observed, lambda token: text_of([token]))),
        ("answers shown", lambda: passages(answered, verifier.tokenizer)),
    ):
        lines.append({"what": what, **measure(run, lambda _: cycles.count)[1]})
    for line in lines:
        print(
            f"{line['what']:22} {line['passes_ms']:8.2f} ms in passes, {line['host_ms']:6.2f} ms beside them, per cycle"
        )
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items() if key != "json"}
        found = {"lines": lines, "hardware": hardware(str(verifier.device)), "settings": settings}
        write_json(options.json, {**found, "provenance": provenance()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drafter", type=Path, help="a block-diffusion drafter's export")
    parser.add_argument("--verifier", default="smollm2")
    parser.add_argument("--suite", default="humaneval")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path)
    profile(parser.parse_args())
