"""From answers to batches: rows per second of each stage, and how long a training step waits for its batch.

    python benchmarks/rows.py [RECIPE] [key=value ...] [--rows 256] [--steps 40] [--repeats 3] [--json FILE]

The recipe (the quickstart by default) names the verifier, the answers and the shape of a step. Medians over the
repeats; taps are made once. What a step waits is the time in `next()` of the loader over that and the step together,
forward, backward and optimiser.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from drafter.answers import open_answers
from drafter.config import AlignmentConfig, CacheConfig, load_as
from drafter.data.packing import pad_packed
from drafter.data.rows import Row, RowMaker, make_rows, pad
from drafter.data.stream import Stream
from drafter.evaluation.race import timed
from drafter.files import write_json
from drafter.machine.devices import choose_device
from drafter.machine.precision import choose
from drafter.models import BlockDiffusionDrafter
from drafter.taps import LocalTaps, TapCache
from drafter.training.batches import Batch, Steps, StreamSteps, loader, packs_of
from drafter.training.module import DrafterModule
from drafter.training.prepare import start
from drafter.verifier import Verifier

CPU = torch.device("cpu")
Figures = dict[str, dict[str, float]]


def per_second(rows: int, work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Rows per second, the median; one run goes before and is not counted where there are several."""
    taken = [timed(CPU, work)[0] for _ in range(repeats + (repeats > 1))][repeats > 1 :]
    return {"rows": rows, "rows_per_second": rows / statistics.median(taken)}


def stages(
    options: argparse.Namespace, config: AlignmentConfig, folder: Path
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each stage's name and figures, in the order of the data."""
    device = choose_device(config.verifier.device)
    dtype = choose(config.training.precision, device)
    verifier = Verifier.load(config.verifier.source, dtype, device, config.verifier.attention)
    found = open_answers(Path(config.data.answers))
    answers = found.all()[: options.rows]
    yield (
        "rows of answers",
        per_second(len(answers), lambda: make_rows(answers, verifier, config.data.sequence_length), options.repeats),
    )
    rows = make_rows(answers, verifier, config.data.sequence_length)
    tokens = sum(len(row.ids) for row in rows)
    yield "batches of padded rows", per_second(len(rows), lambda: padded(rows, config), options.repeats)
    yield "batches of packed rows", per_second(len(rows), lambda: packed(rows, config), options.repeats)
    drafter = start(config, verifier, rows)
    caches = {}
    for name in ("auto", "int8"):
        settings = CacheConfig(dtype=name)
        make_taps = partial(TapCache, verifier, rows, drafter.tap_layers, folder, settings=settings)
        seconds, cache = timed(CPU, make_taps)
        caches[name] = cache
        made = {"rows": len(rows), "rows_per_second": len(rows) / seconds, "tokens_per_second": tokens / seconds}
        made |= {"gigabytes": cache.bytes / 1e9, "relative_error": cache.shards.distortion.relative}
        yield f"taps made and kept, {cache.codec.name}", made
        read = per_second(len(rows), partial(read_all, cache, len(rows)), options.repeats)
        yield f"taps read, {cache.codec.name}", read
    steps = Steps(rows, caches["auto"], config)
    count = min(options.steps, 4 * steps.order.steps_per_epoch)
    in_batches = count * config.training.rows
    for workers in (0, 2):
        drained = loader_of(steps, count, workers)
        yield f"loader, taps of the disk, {workers} workers", per_second(in_batches, drained, options.repeats)
    stream = Stream(found.files, found.checksums, config.seed)
    make = RowMaker.of(verifier, config.data.sequence_length)
    streamed = StreamSteps(stream, make, config)
    yield "loader, streamed answers", per_second(in_batches, lambda: drain(islice(streamed, count)), options.repeats)
    yield "step, taps of the disk", waited(config, drafter, verifier, loader(steps, 0, count), dtype)
    yield "step, streamed answers, taps online", waited(config, drafter, verifier, islice(streamed, count), dtype)


def read_all(cache: TapCache, count: int) -> None:
    for number in range(count):
        cache[number]


def padded(rows: list[Row], config: AlignmentConfig) -> None:
    for at in range(0, len(rows), config.training.rows):
        pad(rows[at : at + config.training.rows])


def packed(rows: list[Row], config: AlignmentConfig) -> None:
    config.data.packing = True
    packs = packs_of(rows, config.data)
    config.data.packing = False
    for at in range(0, len(packs), config.training.rows):
        pad_packed([[rows[index] for index in pack] for pack in packs[at : at + config.training.rows]])


def loader_of(steps: Steps, count: int, workers: int) -> Callable[[], int]:
    return lambda: drain(loader(steps, 0, count, workers))


def drain(batches: Any) -> int:
    return sum(1 for _ in batches)


def waited(
    config: AlignmentConfig, drafter: BlockDiffusionDrafter, verifier: Verifier, batches: Any, dtype: torch.dtype
) -> dict[str, float]:
    """Train on batches; the share of the time in which a step waits for one. The first step is not counted."""
    module = DrafterModule(config, drafter, verifier, [])
    module.trainer = SimpleNamespace(precision="bf16-mixed" if dtype is torch.bfloat16 else "32-true")
    optimizer = torch.optim.AdamW(drafter.parameters(), lr=1e-5, fused=True)
    each: Iterator[Batch] = iter(batches)
    waits, works = [], []
    while True:
        wait, batch = timed(CPU, lambda: next(each, None))
        if batch is None:
            break
        waits.append(wait)
        works.append(timed(verifier.device, lambda batch=batch: step(module, batch, optimizer, dtype))[0])
    wait, work = sum(waits[1:]), sum(works[1:])
    return {
        "rows": config.training.rows * len(works),
        "step_seconds": work / len(works[1:]),
        "waits": wait / (wait + work),
    }


def step(module: DrafterModule, batch: Batch, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
    device = module.verifier.device
    rows = batch.rows.to(device)
    taps = batch.taps
    if taps is None:
        assert isinstance(module.verifier, Verifier)
        taps = LocalTaps(module.verifier, module.drafter.tap_layers)(rows)
    taps = taps.to(device)
    batch = batch._replace(rows=rows, taps=taps, anchors=batch.anchors.to(device), used=batch.used.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        total, _ = module.config.losses(module.scores(batch))
    total.backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="recipes/quickstart.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--rows", type=int, default=256, help="answers used")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    config = load_as(AlignmentConfig, options.recipe, options.overrides)
    found: Figures = {}
    print("| stage | rows | rows per second | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, figures in stages(options, config, Path(folder)):
            found[name] = figures
            rest = {key: value for key, value in figures.items() if key not in ("rows", "rows_per_second")}
            said = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in rest.items())
            rate = f"{figures['rows_per_second']:.0f}" if "rows_per_second" in figures else ""
            print(f"| {name} | {figures['rows']} | {rate} | {said} |", flush=True)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        write_json(options.json, {"settings": settings, "stages": found})


if __name__ == "__main__":
    main()
