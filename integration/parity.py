"""Trained on a real vLLM's hidden states, or on taps made here: tokens per cycle, seed by seed, and what rounding does.

Runs whose taps differ by rounding part after some fifty steps, so that one pair tells little. Here each seed trains
the quickstart, shortened, on three sources of taps: `here`, by the verifier in this process; `served`, the engine's, in
the files that it wrote; `signs`, the control: those made here plus the engine's differences from them, each under a
sign drawn at random, so that their size stays and any direction that they have in common is gone.

    python integration/parity.py STATES OUT --seeds 0 1 2 3     # trains what is not there yet; one JSON file per run
    python integration/parity.py STATES OUT --report
    python integration/parity.py STATES OUT --finished HERE SERVED       # measures runs of `drafter train quickstart`

STATES is the folder of `drafter engine quickstart --states STATES` after a run with data.tap_engine.keep=true.
Measured by the walk on rows that no run trains on: the recipe's test rows, and of its training rows those beyond the
thousand that it uses.
"""

import json
import math
import statistics
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from drafter.config import AlignmentConfig, load_as
from drafter.config.tap_files import TapFilesConfig
from drafter.data.rows import Row, Rows
from drafter.evaluation.statistics import Counts, by_seed, compare
from drafter.evaluation.walk import leading_matches, walk_row
from drafter.files import write_json
from drafter.models import BlockDiffusionDrafter
from drafter.taps import StateFiles, TapCache, TapsElsewhere, TapSource
from drafter.training.batches.feed import Feed
from drafter.training.checkpoints import read_checkpoint
from drafter.training.claim import claim
from drafter.training.fitting import fit
from drafter.training.module import MONITOR, DrafterModule, trained_weights
from drafter.training.prepare import Material, batches_of, prepare, start, taps_of
from drafter.verifier import Verifier

ROWS, STEPS, USED, MORE = 400, 200, 1000, 200  # trained on; steps; rows that the recipe uses; walked beyond them
COUNTS = ("emitted", "cycles", "accepted")
SHORT = [f"training.max_steps={STEPS}", f"training.validate_every={STEPS}", "training.precision=float32"]
SHORT += ["data.max_rows=null", "data.validation_rows=8"]


@dataclass(frozen=True)
class Signs:
    """Taps made here, with another's differences from them under random signs, the same whenever a row is seen."""

    ahead: ClassVar[bool] = True

    here: TapCache
    other: TapsElsewhere

    def __call__(self, rows: Rows, packs: Sequence[Sequence[int]]) -> Tensor:
        here, other = self.here(rows, packs), self.other(rows, packs)
        signs = torch.zeros_like(here)
        for row, (number,) in enumerate(packs):
            length = len(self.here.rows[number].ids)
            drawn = torch.rand(length, here.shape[-1], generator=torch.Generator().manual_seed(number))
            signs[row, :length] = (drawn < 0.5).to(here.dtype) * 2 - 1
        return here + signs * (other - here)

    def close(self) -> None:
        """It keeps nothing."""


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("states", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--sources", nargs="+", default=["here", "served", "signs"])
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--finished", type=Path, nargs="+", default=[])
    said = parser.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    if said.finished:
        measure_all(said.out, said.finished)
    elif not said.report:
        train_all(said.states, said.out, said.seeds, said.sources)
    report(said.out)


def recipe(out: Path, name: str, seed: int) -> AlignmentConfig:
    return load_as(AlignmentConfig, "quickstart", [*SHORT, f"output={out}", f"name={name}_{seed}", f"seed={seed}"])


def train_all(states: Path, out: Path, seeds: Sequence[int], names: Sequence[str]) -> None:
    """Every run that has no file yet, a seed's sources before the next seed."""
    material = prepare(recipe(out, "here", 0))
    verifier, drafter = material.verifier, material.drafter
    assert isinstance(verifier, Verifier)
    rows, batches = material.training[:ROWS], measured_rows(material)
    here = taps_of(rows, verifier, drafter, "training rows")
    sources: dict[str, TapSource] = {"here": here}
    if set(names) != {"here"}:
        files = StateFiles(TapFilesConfig(path=str(states)), drafter.tap_layers, verifier.config.hidden_size)
        files.require(rows)
        sources["served"] = served = TapsElsewhere(files, verifier, rows, drafter.tap_layers)
        sources["signs"] = Signs(here, served)
    for seed in seeds:
        for name in names:
            path = out / f"{name}_{seed}.json"
            if not path.exists():
                write_json(path, train(recipe(out, name, seed), rows, sources[name], verifier, batches))


def measure_all(out: Path, runs: Sequence[Path]) -> None:
    """The exports of finished runs of the whole recipe, each under its folder's name, as seed 0."""
    material = prepare(recipe(out, "here", 0))
    assert isinstance(material.verifier, Verifier)
    batches = measured_rows(material)
    for run in runs:
        drafter = BlockDiffusionDrafter.from_pretrained(run / "export", dtype=torch.float32)
        write_json(out / f"{run.name}_0.json", measure(drafter.eval(), material.verifier, batches))


def measured_rows(material: Material) -> list[tuple[Rows, Tensor]]:
    """Batches that no run trains on: the recipe's test rows, and training rows beyond those that it uses."""
    rows = [*material.test, *material.training[USED : USED + MORE]]
    return batches_of(rows, taps_of(rows, material.verifier, material.drafter, "measured rows"))


def train(
    config: AlignmentConfig,
    rows: list[Row],
    taps: TapSource,
    verifier: Verifier,
    batches: list[tuple[Rows, Tensor]],
) -> dict[str, list[int]]:
    """A run; returns tokens and cycles of each measured row."""
    claim(config)
    torch.manual_seed(config.seed)
    drafter = start(config, verifier, rows)
    module = DrafterModule(config, drafter, verifier, batches[:1])
    feed = Feed(config, rows, None, taps)
    fit(module, feed, config.directory, config.training, MONITOR, device="cpu", dtype=torch.float32)
    drafter.load_state_dict(trained_weights(read_checkpoint(config.directory / "checkpoints/last.ckpt")))
    return measure(drafter.eval(), verifier, batches)


def measure(drafter, verifier: Verifier, batches: list[tuple[Rows, Tensor]]) -> dict[str, list[int]]:
    """Tokens, cycles and accepted drafts of each row."""
    found: dict[str, list[int]] = {name: [] for name in COUNTS}
    for rows, taps in batches:
        for leading in leading_matches(drafter, verifier, rows, taps):
            emitted, accepted = walk_row(leading, drafter.block_size - 1)
            for name, value in zip(found, (sum(emitted), len(emitted), sum(accepted)), strict=True):
                found[name].append(value)
    return found


def report(out: Path) -> None:
    """Print tokens per cycle of each run, and what two sources differ by in the seeds that both have."""
    read: dict[str, dict[int, dict[str, list[int]]]] = {}
    for path in sorted(out.glob("*_*.json")):
        name, seed = path.stem.rsplit("_", 1)
        read.setdefault(name, {})[int(seed)] = json.loads(path.read_text())
    for name, runs in read.items():
        counts = counted(runs, sorted(runs))
        print(f"{name:6} " + " ".join(f"{rate:.4f}" for rate in by_seed(counts)))
    for one, other in combinations(read, 2):
        seeds = sorted(set(read[one]) & set(read[other]))
        if seeds:
            print(f"{other} - {one}: {difference(counted(read[other], seeds), counted(read[one], seeds))}")


def counted(runs: dict[int, dict[str, list[int]]], seeds: list[int]) -> Counts:
    """What runs counted, [seeds, rows]."""
    return {name: torch.tensor([runs[seed][name] for seed in seeds]).double() for name in COUNTS}


def difference(one: Counts, other: Counts) -> str:
    """What tokens per cycle differ by: mean over seeds, its standard error, the interval over seeds and rows."""
    apart = [(a - b) for a, b in zip(by_seed(one), by_seed(other), strict=True)]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    sure = compare(one, other).difference
    each = " ".join(f"{value:+.4f}" for value in apart)
    return (
        f"{statistics.mean(apart):+.4f}, standard error {error:.4f}, 95 % [{sure.low:+.4f}, {sure.high:+.4f}]; {each}"
    )


if __name__ == "__main__":
    main()
