"""Runs of an ablation: one training and one walk per suite each, kept as one JSON file; finished ones are skipped."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch

from drafter.ablation.shared import Shared
from drafter.ablation.spec import Ablation, recipe_of
from drafter.config import AlignmentConfig
from drafter.files import remove_folder, sweep, write_json
from drafter.machine.children import POLL, ended_by_signals
from drafter.models import BlockDiffusionDrafter
from drafter.training.batches.feed import Feed
from drafter.training.checkpoints import read_checkpoint
from drafter.training.claim import claim, deciding
from drafter.training.fitting import fit
from drafter.training.logs import Metrics
from drafter.training.module import MONITOR, DrafterModule, trained_weights
from drafter.training.pictures import read_metrics
from drafter.training.prepare import start

log = logging.getLogger(__name__)
RESULT = "result.json"
CURVES = ("loss", "tokens_per_block", "tokens_per_cycle_held_out", "accepted_per_cycle_held_out")

Result = dict[str, Any]


def result_path(config: AlignmentConfig) -> Path:
    return config.directory / RESULT


def read_result(config: AlignmentConfig) -> Result | None:
    """A finished run's result; None where the run is not finished.

    Raises:
        ValueError: the run was made with other settings.
    """
    path = result_path(config)
    if not path.is_file():
        return None
    result: Result = json.loads(path.read_text())
    if result["status"] != "finished":
        return None
    if deciding(result["recipe"]) != deciding(json.loads(json.dumps(recipe_of(config)))):
        raise ValueError(
            f"arms.{result['arm']}: {config.directory} holds a run of this name with other settings; "
            "rename the arm, or delete that directory"
        )
    return result


def train_one(shared: Shared, config: AlignmentConfig) -> tuple[BlockDiffusionDrafter, float]:
    """Train the drafter of a run; returns it ready to be measured, and the seconds that its training took.

    Raises:
        ValueError: training ended before its last step.
    """
    verifier, dtype = shared.material.verifier, shared.precision(config)
    torch.manual_seed(config.seed)
    rows = shared.training(config)
    drafter = start(config, verifier, rows)
    module = DrafterModule(config, drafter, verifier, shared.validation(drafter))
    batches = Feed(config, rows, None, shared.training_taps(config, drafter, dtype))
    device, left = shared.material.device, module.left
    fit(module, batches, config.directory, config.training, MONITOR, device=device, dtype=dtype, left=left)
    last = read_checkpoint(config.directory / "checkpoints/last.ckpt")
    if last["global_step"] < config.training.max_steps:
        raise ValueError(f"{config.directory}: ended at step {last['global_step']} of {config.training.max_steps}")
    drafter.load_state_dict(trained_weights(last))
    return drafter.eval(), last["seconds"]["train"]


def run_one(shared: Shared, arm: str, seed: int) -> Result:
    """Train, walk along every suite, write the run's result.

    Raises:
        ValueError: the objective ended as no finite number.
    """
    began = time.perf_counter()
    config = shared.spec.config(arm, seed)
    drafter, seconds = train_one(shared, config)
    curves = read_curves(Metrics(config.directory).merged())
    last = [value for _, metric, value in curves if metric == "loss"]
    if last and not math.isfinite(last[-1]):
        raise ValueError(f"the objective is {last[-1]} at the end; lower training.learning_rate or a weight")
    suites = {
        name: [
            {
                "prompt": index,
                "emitted": sum(map(sum, one.emitted)),
                "cycles": sum(map(len, one.emitted)),
                "accepted": sum(map(sum, one.accepted)),
                "reached": one.reached,
                "kept": one.kept,
            }
            for index, one in enumerate(walks)
        ]
        for name, walks in shared.walks(drafter).items()
    }
    result = {
        "arm": arm,
        "seed": seed,
        "status": "finished",
        "error": "",
        "kept": shared.spec.keep_checkpoints,
        "recipe": recipe_of(config),
        "steps": config.training.max_steps,
        "train_seconds": seconds,
        "seconds": time.perf_counter() - began,
        "about": shared.about(),
        "suites": suites,
        "curves": curves,
    }
    write_json(result_path(config), result)
    drop_weights(config)
    return result


def drop_weights(config: AlignmentConfig) -> None:
    """Remove the checkpoints of a finished run that was not asked to keep them."""
    path, folder = result_path(config), config.directory / "checkpoints"
    if not path.is_file() or json.loads(path.read_text()).get("kept", True):  # a failed run's serve another try
        return
    sweep(config.directory, folder.name)
    with suppress(FileNotFoundError):  # gone already, as usual
        remove_folder(folder)


def run_all(spec: Ablation, share: tuple[int, int] = (0, 1)) -> None:
    """Every run that is not finished; a run that fails is written down and the others go on.

    Args:
        share: (i, n): only every n-th run, from the i-th on.
    Raises:
        ValueError: anything that can be known to be wrong before the first training.
    """
    shared = Shared(spec)
    own = set(spec.wanted()[share[0] :: share[1]])
    todo = [run for run in unfinished(spec) if run[:2] in own]
    if todo:
        make_taps(shared)
    for _, _, config in todo:
        claim(config)
    began = time.perf_counter()
    for number, (arm, seed, config) in enumerate(todo):
        left = (time.perf_counter() - began) / number * (len(todo) - number) / 60 if number else math.nan
        about = "" if math.isnan(left) else f", about {left:.0f} min left"
        log.info("run %d of %d: %s, seed %d%s", number + 1, len(todo), arm, seed, about)
        try:
            run_one(shared, arm, seed)
        except Exception as error:
            log.exception("%s, seed %d: failed; the others go on", arm, seed)
            line = " ".join(f"{type(error).__name__}: {error}".split())
            failed = {"arm": arm, "seed": seed, "status": "failed", "error": line, "recipe": recipe_of(config)}
            write_json(result_path(config), failed)


def make_taps(shared: Shared) -> None:
    """Make the taps that the arms read, so that no run pays for what all of them share.

    Raises:
        ValueError: an arm's drafter does not fit the verifier.
    """
    for arm in shared.spec.arms:
        config = shared.spec.config(arm, shared.spec.seeds[0])
        try:
            drafter = start(config, shared.material.verifier, shared.training(config))
        except ValueError as error:
            raise ValueError(f"arms.{arm}: {error}") from None
        shared.training_taps(config, drafter, shared.precision(config))
        shared.validation(drafter)
        for name, rows in shared.suites.items():
            shared.taps(name, rows, drafter, torch.float32)


def unfinished(spec: Ablation) -> list[tuple[str, int, AlignmentConfig]]:
    """Runs that are wanted now and have no result, in order."""
    runs = [(arm, seed, spec.config(arm, seed)) for arm, seed in spec.wanted()]
    return [run for run in runs if read_result(run[2]) is None]


def spread(spec: Ablation, words: Sequence[str]) -> None:
    """Run in `spec.processes` processes, one GPU each where there are GPUs.

    Args:
        words: the command line of the ablation, which each process gets with its share.
    """
    shared = Shared(spec)
    if not unfinished(spec):
        return
    make_taps(shared)  # here, once: the processes find it on disk
    del shared
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    running: list[Popen] = []
    with ended_by_signals():
        try:
            for index in range(spec.processes):
                command = [sys.executable, "-m", "drafter", "ablate", *words, "--share", f"{index}/{spec.processes}"]
                running.append(Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}))
            while any(process.poll() is None for process in running):
                time.sleep(POLL)
        finally:
            for process in running:
                process.terminate()  # nothing, where it has ended
    if early := sum(bool(process.returncode) for process in running):
        log.warning("%d of %d processes ended early; start again to go on", early, len(running))


def results(spec: Ablation) -> list[Result]:
    """What is known of each run, in order; a run that never ended has the status `missing`."""
    found = []
    for arm, seed in spec.runs():
        path = result_path(spec.config(arm, seed))
        missing = {"arm": arm, "seed": seed, "status": "missing", "error": "not run yet"}
        found.append(json.loads(path.read_text()) if path.is_file() else missing)
    return found


def read_curves(metrics: Path) -> list[tuple[int, str, float]]:
    """(step, metric, value) of a run: objective, tokens per cycle, each term and its gradient norm."""
    return [
        (int(record["step"]), name, float(value))
        for record in read_metrics(metrics)
        for name, value in record.items()
        if value and (name in CURVES or name.startswith(("train/", "gradient_norm/")))
    ]
