"""`system: ensemble`, from recipe to summary: tasks → pair → roll-outs → reward → head → map of what relaxing costs.

Every stage goes on after a kill.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from drafter.config import EnsembleConfig, require
from drafter.evaluation import frontier
from drafter.evaluation.measured import table
from drafter.evaluation.report import Picture
from drafter.evaluation.rewards import Limits, Reward, Task, check_tasks, make_reward
from drafter.evaluation.rewards.tasks import load_tasks, split_tasks
from drafter.evaluation.statistics import Estimate
from drafter.export.original import weights_of
from drafter.export.record import provenance
from drafter.files import write_csv, write_json
from drafter.machine.devices import choose_device
from drafter.models import kind_of
from drafter.models.base import Drafter
from drafter.models.cut import cut_layers
from drafter.models.ensemble_head import EnsembleHead, HeadConfig
from drafter.training.checkpoints import read_checkpoint, seconds_of
from drafter.training.claim import begun_in, claim
from drafter.training.ensemble.module import MONITOR, EnsembleModule, UpdateFeed
from drafter.training.ensemble.pair import kept_ends, make_pair
from drafter.training.ensemble.start import fit_budget
from drafter.training.fitting import fit
from drafter.training.logs import Metrics
from drafter.training.pictures import draw_metrics, read_metrics
from drafter.training.plan import absent, config_here, steps
from drafter.training.report import close_page, open_page
from drafter.training.room import Fit, expected, weights_of_model
from drafter.verifier import Verifier

log = logging.getLogger(__name__)


def train(config: EnsembleConfig) -> dict[str, Any]:
    """Run a recipe; returns what `summary.json` holds.

    Raises:
        ValueError: something does not fit, or the directory holds a run of another recipe.
    """
    began = time.perf_counter()
    training, validation, test = tasks_of(config)
    directory = claim(config)
    verifier, reward = load(config, directory)
    check_room(config, verifier, [*training, *validation, *test])
    source = config.ensemble.drafter or str(make_pair(config, verifier, training, validation, directory / "pair"))
    drafter = kind_of(source).beside(source, verifier)
    head = EnsembleHead(describe(config, verifier, drafter), config.ensemble.start_weight).to(verifier.device)
    module = EnsembleModule(config, verifier, drafter, head, training, validation, reward)
    if config.ensemble.start_budget is not None:  # of a begun run, too: it tells what there was before training
        fit_budget(module, config.ensemble.start_budget)
    untrained = module.validate()
    log.info("before training: %s", ", ".join(f"{name} {value:.3f}" for name, value in untrained.items()))

    batches = UpdateFeed(config.ensemble.updates, -(-len(training) // config.training.rows))
    device = str(verifier.device)
    taken = time.perf_counter() - began
    best = fit(module, batches, directory, config.training, MONITOR, device=device, prepared=taken, more=True)
    state, trained = read_checkpoint(best), time.perf_counter()
    head.load_state_dict(weights_of(state, "head"))
    head.save(directory / "head")
    Metrics(directory).merged()

    points = draw_map(config, verifier, drafter, test, reward, directory)
    dynamic = next(point for point in points if point.way.rule.startswith("dynamic_ensemble"))
    gains = frontier.gains(points, {"head": head.config})
    over = gains["head"]
    seconds = seconds_of(best.parent) | {"evaluate": time.perf_counter() - trained}
    summary = {
        "tokens_per_cycle": dynamic.tokens_per_cycle.value,
        "acceptance": dynamic.acceptance.value,
        "reward": dynamic.reward.value,
        "reward_over_static": asdict(over),
        "validation_untrained": untrained,
        "steps": state["global_step"],
        "asked": {"prompt": test[0].prompt, "temperature": config.ensemble.temperature},
        "tasks": {"training": len(training), "validation": len(validation), "test": len(test)},
        "provenance": provenance(),
        "seconds": sum(seconds.values()),
        "seconds_by_stage": seconds,
    }
    write_json(directory / "summary.json", summary)
    report(config, summary, points, gains, device)
    print(
        f"reward over the static ensembles at the same tokens per cycle: {over.value:+.3f} "
        f"[{over.low:+.3f}, {over.high:+.3f}]"
    )
    return summary


def outlook(config: EnsembleConfig) -> list[str]:
    """Steps, the size of the drafter that is made first, and what its checkpoints take of the disk; the head is small.

    Raises:
        ValueError: the verifier has fewer layers than the drafter is to have of them.
    """
    lines = [steps(config.training, 1)]
    if config.ensemble.drafter is not None:
        return lines
    shape = config_here(config.verifier.source)
    if shape is None:
        return [*lines, absent(config.verifier.source)]
    with torch.device("meta"):
        model = cut_layers(AutoModelForCausalLM.from_config(shape), config.pair.layers)
    weights = weights_of_model(model)
    trained = weights - sum(weights_of_model(part) for part in kept_ends(model))
    pair = Fit(config.pair.training, weights, trained, 0.0)
    return [
        *lines,
        f"pair: {weights / 4e6:.4g} M parameters, {config.pair.layers} layers; {steps(config.pair.training, 1)}",
        expected([pair], config.directory / "pair"),
    ]


def tasks_of(config: EnsembleConfig) -> tuple[list[Task], list[Task], list[Task]]:
    """Tasks to train on, to validate by, to test by: no source is in two of them.

    Raises:
        ValueError: there are too few, or one lacks what the reward compares with.
    """
    settings = config.tasks
    training, validation, test = split_tasks(load_tasks(settings.kind, settings.count, config.seed))
    validation, test = validation[: settings.validation], test[: settings.test]
    enough = bool(training and validation and test)
    remedy = f"gives {len(training)} to train on, {len(validation)} to validate and {len(test)} to test; ask for more"
    require(enough, "tasks.count", settings.count, remedy)
    check_tasks(config.reward.kind, [*training, *validation, *test])
    return training, validation, test


def check_room(config: EnsembleConfig, verifier: Verifier, tasks: Sequence[Task]) -> None:
    """Raise a ValueError where the verifier's context has no room for an answer to a task."""
    longest = max(len(verifier.chat_ids(task.prompt)) for task in tasks)
    context, new = verifier.context_length, config.tasks.max_new_tokens
    remedy = f"a task has {longest} tokens, the verifier's context is {context}; lower it"
    require(longest + new <= context, "tasks.max_new_tokens", new, remedy)


def load(config: EnsembleConfig, directory: Path) -> tuple[Verifier, Reward]:
    """The verifier in the precision of the run in `directory`, and what answers are worth."""
    device = choose_device(config.verifier.device)
    dtype = begun_in(directory, config.training, device)
    verifier = Verifier.load(config.verifier.source, dtype, device, config.verifier.attention)
    limits = Limits(config.reward.seconds, config.reward.megabytes, config.reward.together)
    return verifier, make_reward(config.reward.kind, verifier, limits)


def describe(config: EnsembleConfig, verifier: Verifier, drafter: Drafter) -> HeadConfig:
    """What the head is made for."""
    widths = drafter.hidden_size, verifier.config.hidden_size
    task = f"{config.tasks.kind}, {config.reward.kind}"
    return HeadConfig(*widths, config.ensemble.drafter or "pair", verifier.fingerprint(), task, asdict(config))


def draw_map(
    config: EnsembleConfig,
    verifier: Verifier,
    drafter: Drafter,
    test: Sequence[Task],
    reward: Reward,
    directory: Path,
) -> list[frontier.Point]:
    """The trained head among all other ways, on the test tasks: a table, a CSV file."""
    settings = config.ensemble
    ways = frontier.usual_ways(drafter, {"head": str(directory / "head")})
    setting = frontier.Setting(
        config.tasks.max_new_tokens,
        settings.temperature,
        settings.draft_length,
        config.tasks.test_seeds,
        timed=config.tasks.timed,
    )
    kept = frontier.Kept(directory / "ways.jsonl", test, setting)
    measured = frontier.measure(verifier, drafter, test, reward, ways, setting, kept)
    points = list(tqdm(measured, total=len(ways), desc="ways of decoding", leave=False))
    print(table([point.line() for point in points], frontier.COLUMNS))
    write_csv(directory / "frontier.csv", [point.figures() for point in points])
    return points


def report(
    config: EnsembleConfig,
    summary: dict[str, Any],
    points: Sequence[frontier.Point],
    gains: Mapping[str, Estimate],
    device: str,
) -> None:
    """`report.html`: the map, and how the head was trained."""
    page = open_page(config, summary)
    for each in frontier.findings(points, config.reward.kind, gains):
        page.text(f"{each}.")
    frontier.add_map(page, points, config.reward.kind)
    page.heading("Training")
    records = read_metrics(config.directory / "metrics.csv")
    panels = [
        partial(draw_metrics, records, {name: "roll-outs", f"{name}_held_out": "held out"}, name.replace("_", " "))
        for name in ("reward", "tokens_per_cycle")
    ]
    panels.append(partial(draw_metrics, records, {"verifier_weight": "weight"}, "mean weight of the verifier"))
    page.picture(Picture("curves", "reward, tokens per cycle and the verifier's weight over steps", panels))
    close_page(page, config, summary, device)
