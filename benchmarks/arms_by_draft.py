"""Does an arm's gain depend on how its drafts are used: shorter ones, trees, lengths chosen cycle by cycle?

    drafter ablate NAME keep_checkpoints=true                  # the runs must have kept their weights
    python benchmarks/arms_by_draft.py NAME FOLDER             # walks anew, then prints
    python benchmarks/arms_by_draft.py FOLDER --report [--baseline ARM]     # prints what was walked before

Every kept run is walked along the verifier's own answers to each suite, in float32, as the ablation itself does it.
Chosen lengths need what passes take: a verify pass over w tokens 1 + (w - 1) / 50 plain ones and a draft pass 1 / 8, as
on a GPU that waits for its memory; their unit is tokens per plain pass, that of all others tokens per cycle.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from csv import DictReader
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from drafter.ablation import tables
from drafter.ablation.runner import read_result
from drafter.ablation.shared import Shared
from drafter.ablation.spec import load_ablation
from drafter.decode import Costs
from drafter.decode.costs import Survival
from drafter.evaluation.paying import walk_trees
from drafter.evaluation.slots import Observed, observe
from drafter.evaluation.statistics import Counts, Estimate, average_gain, by_seed, pair
from drafter.evaluation.walk import walk_row
from drafter.files import write_csv
from drafter.training.checkpoints import read_checkpoint
from drafter.training.module import trained_weights
from drafter.training.prepare import start
from drafter.verifier import Verifier

FILE = "by_draft.csv"
SHORTER, TREES = (1, 3, 7), (7, 15, 31)
CHOSEN = "chosen lengths"
COUNTS = ("emitted", "cycles")  # of chosen lengths the cycles are plain passes
Record = dict[str, Any]


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ablation", help="its recipe; with --report the folder")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--baseline", help="the arm to compare with; default: the ablation's")
    options, overrides = parser.parse_known_args()
    folder = Path(options.ablation) if options.report else options.folder
    if folder is None:
        parser.error("FOLDER: name where the CSV file goes")
    if not options.report:
        write_csv(folder / FILE, list(walk_all(options.ablation, overrides)))
    print(report(folder, options.baseline))


def walk_all(name: str, overrides: list[str]) -> Iterator[Record]:
    """One record for each run, suite, prompt and way of drafting."""
    shared = Shared(load_ablation(name, overrides))
    verifier = shared.material.verifier
    assert isinstance(verifier, Verifier)
    for arm, seed in shared.spec.runs():
        config = shared.spec.config(arm, seed)
        kept = config.directory / "checkpoints/last.ckpt"
        if read_result(config) is None or not kept.is_file():
            continue
        drafter = start(config, verifier, shared.training(config))
        drafter.load_state_dict(trained_weights(read_checkpoint(kept)))
        for suite, rows in shared.suites.items():
            survival = Survival()
            for prompt, row in enumerate(rows):
                seen = observe(verifier, drafter.eval(), row.ids[: row.start], row.answer)
                for way, (emitted, cycles) in ways(seen, row.answer, survival).items():
                    yield {"arm": arm, "seed": seed, "suite": suite, "prompt": prompt, "drafts": way} | {
                        "emitted": emitted,
                        "cycles": round(cycles, 4),
                    }


def ways(seen: Observed, answer: list[int], survival: Survival) -> dict[str, tuple[int, float]]:
    """Tokens and cycles of each way along one answer."""
    leading, slots = seen.hits.cumprod(-1).sum(-1).tolist(), seen.hits.shape[1]
    found: dict[str, tuple[int, float]] = {}
    for length in (*(one for one in SHORTER if one < slots), slots):
        emitted, _ = walk_row(leading, length)
        found[f"{length} in a row"] = sum(emitted), len(emitted)
    for nodes in TREES:
        tree = walk_trees([(seen, answer)], nodes)
        found[f"a tree of {nodes}"] = sum(tree.emitted[0]), len(tree.emitted[0])
    return found | {CHOSEN: walk_chosen(seen, leading, survival)}


def walk_chosen(seen: Observed, leading: list[int], survival: Survival) -> tuple[int, float]:
    """Tokens, and plain passes' worth of time, where each cycle drafts what its confidences make worth while."""
    slots = seen.hits.shape[1]
    costs = Costs(1 / 8, [1 + extra / 50 for extra in range(slots + 1)])
    tokens, passes, at = 0, 0.0, 0
    while at < len(leading):
        left, sure = len(leading) - at, seen.confidence[at].tolist()
        drafts = costs.best(survival.expected(sure, left))
        keep = min(leading[at], drafts, left)
        survival.learn(sure, keep, drafts)
        tokens += min(keep + 1, left)
        passes += costs.draft + costs.verify[drafts]
        at += keep + 1
    return tokens, passes


def report(folder: Path, baseline: str | None = None) -> str:
    """A table: the baseline's level in each way, and what the other arms gain there, averaged over suites."""
    with (folder / FILE).open() as file:
        records = list(DictReader(file))
    baseline = baseline or tables.read(folder).baseline
    arms = list(dict.fromkeys(one["arm"] for one in records))
    others = [arm for arm in arms if arm != baseline]
    lines = ["| drafts | " + " | ".join([f"`{baseline}`", *(f"`{arm}`" for arm in others)]) + " |"]
    lines.append("|---" * (len(arms) + 1) + "|")
    for way in dict.fromkeys(one["drafts"] for one in records):
        own = [one for one in records if one["drafts"] == way]
        level = fmean(fmean(by_seed(counts)) for counts in counted(own, baseline)[1].values())
        lines.append(f"| {way} | {' | '.join([f'{level:.2f}', *(gain(own, arm, baseline) for arm in others)])} |")
    return "\n".join(lines)


def gain(records: list[Record], arm: str, baseline: str) -> str:
    (seeds, mine), (known, others) = (counted(records, one) for one in (arm, baseline))
    return said(average_gain({suite: pair(mine[suite], seeds, others[suite], known) for suite in mine}))


def said(gain: Estimate) -> str:
    """A gain in per cent, with its interval."""
    return f"{100 * gain.value:+.1f} % [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def counted(records: list[Record], arm: str) -> tuple[list[int], dict[str, Counts]]:
    """The arm's seeds, and what it counted in each suite."""
    own = [record for record in records if record["arm"] == arm]
    seeds = sorted({int(record["seed"]) for record in own})
    found: dict[str, Counts] = {}
    for suite in dict.fromkeys(record["suite"] for record in own):
        rows = [record for record in own if record["suite"] == suite]
        rows.sort(key=lambda record: (int(record["seed"]), int(record["prompt"])))
        numbers = {name: torch.tensor([float(record[name]) for record in rows], dtype=torch.float64) for name in COUNTS}
        found[suite] = {name: each.view(len(seeds), -1) for name, each in numbers.items()}
    return seeds, found


if __name__ == "__main__":
    main()
