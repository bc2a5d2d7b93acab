"""The CSV files of an ablation: all that its report is made from."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drafter.ablation.spec import Ablation, differences, recipe_of
from drafter.files import write_csv
from losses import Losses

Record = dict[str, Any]
FILES = ("about.csv", "arms.csv", "runs.csv", "results.csv", "curves.csv")
COUNTS = ("emitted", "cycles", "accepted")


def write(spec: Ablation, results: Sequence[Record]) -> None:
    """Write the CSV files from the results of runs, finished or not."""
    finished = [result for result in results if result["status"] == "finished"]
    configs = {arm: spec.config(arm, spec.seeds[0]) for arm in spec.arms}
    settings = differences({arm: recipe_of(config) for arm, config in configs.items()})
    about = {"name": spec.directory.name, "baseline": spec.baseline, **(finished[0]["about"] if finished else {})}
    commits = {result["about"]["commit"] for result in finished}
    about |= {"commit": ", ".join(sorted(commits))} if len(commits) > 1 else {}
    arms = [
        {
            "arm": arm,
            "overrides": " ".join(words),
            "objective": objective(configs[arm].losses),
            "settings": json.dumps(settings[arm]),
        }
        for arm, words in spec.arms.items()
    ]
    keys = ("arm", "seed", "status", "steps", "train_seconds", "seconds", "error")
    rows = [
        {"arm": run["arm"], "seed": run["seed"], "suite": suite, "prompt": one["prompt"]}
        | {name: one[name] for name in COUNTS}
        | {f"{what}_{slot}": count for what in ("reached", "kept") for slot, count in enumerate(one[what], 1)}
        for run in finished
        for suite in spec.suites
        for one in run["suites"][suite]
    ]
    curves = [
        {"arm": run["arm"], "seed": run["seed"], "step": step, "metric": metric, "value": value}
        for run in finished
        for step, metric, value in run["curves"]
        if value is not None  # was no finite number
    ]
    contents: list[Iterable[Record]] = [
        [{"key": key, "value": value} for key, value in about.items()],
        arms,
        [{key: result.get(key, "") for key in keys} for result in results],
        rows,
        curves,
    ]
    for name, records in zip(FILES, contents, strict=True):
        write_csv(spec.directory / name, list(records))


def objective(losses: Losses) -> str:
    """Each active term with its coefficient and settings: a coefficient means nothing without its reduction."""
    terms = []
    for name, loss in losses.active.items():
        unset = {"weight", *(key for key in ("warmup_steps", "gradient_cap") if not getattr(loss, key))}
        settings = {key: value for key, value in asdict(loss).items() if key not in unset}
        terms.append(f"{loss.weight:g} {name}({', '.join(f'{key}={value}' for key, value in settings.items())})")
    return " + ".join(terms)


@dataclass
class Tables:
    """An ablation as read back.

    Attributes:
        about: facts of all runs, `baseline` among them.
        arms: `arm`, `overrides`, `objective`, `settings` of each, in order.
        runs: `arm`, `seed`, `status`, `steps`, `train_seconds`, `seconds`, `error`.
        counts: suite → arm → name of a count → [seeds, prompts].
        slots: suite → arm → (reached, kept), each [slots], summed over seeds and prompts.
        curves: (arm, metric) → seed → (steps, values).
    """

    about: dict[str, str] = field(default_factory=dict)
    arms: list[dict[str, str]] = field(default_factory=list)
    runs: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, dict[str, dict[str, Tensor]]] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    slots: dict[str, dict[str, tuple[list[int], list[int]]]] = field(default_factory=dict)
    curves: dict[tuple[str, str], dict[int, tuple[list[int], list[float]]]] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        return self.about["baseline"]


def read(directory: Path) -> Tables:
    """Read an ablation's CSV files.

    Raises:
        ValueError: a file is missing, or no run is finished.
    """
    absent = [name for name in FILES if not (directory / name).is_file()]
    if absent:
        raise ValueError(f"{directory}: lacks {', '.join(absent)}; run the ablation first")
    about, arms, runs, rows, curves = (_read(directory / name) for name in FILES)
    if not rows:
        reasons = "; ".join(dict.fromkeys(run["error"] for run in runs if run["error"]))
        raise ValueError(f"{directory}: no run is finished, so there is nothing to report ({reasons})")
    found = Tables({record["key"]: record["value"] for record in about}, arms, runs)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found.seeds[arm] = sorted({int(row["seed"]) for row in rows if row["arm"] == arm})
    for suite in dict.fromkeys(row["suite"] for row in rows):
        found.counts[suite], found.slots[suite] = {}, {}
        for arm, seeds in found.seeds.items():
            own = [row for row in rows if row["suite"] == suite and row["arm"] == arm]
            own.sort(key=lambda row: (int(row["seed"]), int(row["prompt"])))
            found.counts[suite][arm] = {
                name: torch.tensor([float(row[name]) for row in own], dtype=torch.float64).view(len(seeds), -1)
                for name in COUNTS
            }
            found.slots[suite][arm] = (_summed(own, "reached"), _summed(own, "kept"))
    for record in curves:
        steps, values = found.curves.setdefault((record["arm"], record["metric"]), {}).setdefault(
            int(record["seed"]), ([], [])
        )
        steps.append(int(record["step"]))
        values.append(float(record["value"]))
    return found


def _summed(rows: list[dict[str, str]], what: str) -> list[int]:
    columns = [name for name in rows[0] if name.startswith(f"{what}_") and rows[0][name]]
    return [sum(int(row[name]) for row in rows) for name in columns]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
