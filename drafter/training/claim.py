"""The directory of a run: taken for one recipe, with what that run settled on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drafter import config as configs
from drafter.config import FittingConfig, RunConfig
from drafter.config.checks import flat
from drafter.files import atomically, hold, write_json
from drafter.machine.precision import choose_together
from drafter.machine.ranks import is_first, ranks
from drafter.training.checkpoints import resumable
from drafter.training.optimisation import learning_rate

# What decides no number of a training: it may change from one start of a run to the next.
FREE = (
    "name",
    "output",
    "verifier.device",
    "verifier.attention",
    "data.bad_rows",
    "data.batch_size",
    "data.shard_prompts",
    "data.server",
    "data.tap_engine",
    "data.cache.max_gb",
    "data.cache.confirm",
    "training.workers",
    "training.devices",
    "training.nodes",
    "training.strategy",
    "training.sharded_checkpoints",
    "training.patience",
    "training.keep",
    "training.checkpointing",
    "training.compile",
    "training.profile",
    "training.log_every",
    "training.loggers",
    "training.validate_every",
    "training.max_skipped",
    "decoding",
    "trial",
)
SCHEDULE = ("training.max_steps", "training.schedule", "training.warmup", "training.cooldown")


def claim(config: RunConfig) -> Path:
    """The run's directory, holding its resolved recipe, for this process and its ranks alone.

    Raises:
        ValueError: it holds a run of a recipe whose numbers are others, or another process trains there.
    """
    directory = config.directory
    path = directory / "config.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    if is_first() and not hold(directory / ".lock"):
        raise ValueError(f"name={config.name!r}: another process trains in {directory}; wait, or choose another name")
    if _begun(directory):
        if not path.is_file():
            raise ValueError(
                f"name={config.name!r}: {directory} holds checkpoints and no config.yaml that says of what; "
                "choose another name or delete it"
            )
        other = _other(path, config)
        if other:
            raise ValueError(
                f"name={config.name!r}: {directory} holds a run of another recipe (other {', '.join(other)}); "
                "choose another name or delete it"
            )
    with atomically(path) as scratch:
        configs.save(config, scratch)
    return directory


def deciding(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that decide its numbers, by dotted key.

    Ranks and micro-batches share out the rows of a step that they make up together; but each reader of a stream has a
    part of its own.
    """
    found = flat(recipe)
    inner = {f"stages.{at}": stage for at, stage in enumerate(found.pop("stages", []))}  # each a `training` of its own
    if "pair" in recipe:
        inner["pair.training"] = recipe["pair"]["training"]
        found = {key: value for key, value in found.items() if not key.startswith("pair.training.")}
    streamed = found.get("data.streaming")
    if "training.rows" in found and not streamed:
        device = str(found.get("verifier.device", "auto")).replace("auto", _kind())
        world = ranks(found["training.devices"], device, found.get("training.nodes", 1))
        found["training.rows"] *= found.pop("training.accumulate") * world
    bound = ("training.workers", "training.devices", "training.nodes") if streamed else ()
    free = [key for key in FREE if key not in bound]
    kept = {key: value for key, value in found.items() if not any(f"{key}.".startswith(f"{one}.") for one in free)}
    for name, settings in inner.items():
        own = deciding({"verifier": recipe["verifier"], "training": settings})
        kept |= {key.replace("training", name, 1): own[key] for key in own if key.startswith("training.")}
    return kept


def begun_in(directory: Path, settings: FittingConfig, device: str) -> torch.dtype:
    """The precision of a fit, as it began: asked anew, a busy machine, or another one, may find another faster.

    Raises:
        ValueError: see `choose_together`.
    """
    path = directory / "precision.json"
    if path.is_file() and _begun(directory):
        kept: torch.dtype = getattr(torch, json.loads(path.read_text())["precision"])
        return kept
    found = choose_together(settings, device)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(path, {"precision": str(found).removeprefix("torch.")})
    return found


def _begun(directory: Path) -> bool:
    """Whether a fit has begun there: without a checkpoint there is nothing to lose."""
    return any(directory.rglob("checkpoints"))


def _other(path: Path, config: RunConfig) -> list[str]:
    """Keys in which the recipe of a begun run decides otherwise."""
    try:
        begun = configs.load_as(RunConfig, path)
    except ValueError:
        return ["version of the program"]
    one, other = deciding(asdict(begun)), deciding(asdict(config))
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    only_later = bool(keys) and set(keys) <= set(SCHEDULE) and _same_rates(path.parent, begun, config)
    return [] if only_later else keys


def _same_rates(directory: Path, begun: Any, config: Any) -> bool:
    """Whether the steps that a run has taken would have had the same learning rates: it may end elsewhere."""
    done = resumable(directory / "checkpoints")[1].get("global_step", 0)
    pair: tuple[FittingConfig, FittingConfig] = (begun.training, config.training)
    return all(learning_rate(pair[0], step) == learning_rate(pair[1], step) for step in range(done))


def _kind() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
