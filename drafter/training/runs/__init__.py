"""The systems that can be trained: a file each, its stages from top to bottom. `system:` in the recipe picks."""

from importlib import import_module
from typing import Any

from drafter.config import RunConfig

RUNS = {  # the module whose `train` is a system's run
    name: f"drafter.training.runs.{name}" for name in ("alignment", "language_model", "distillation", "ensemble")
}


def outlook(config: RunConfig) -> list[str]:
    """What can be told of a recipe by its system without a weight being loaded: a line each."""
    found: list[str] = import_module(RUNS[config.system]).outlook(config)
    return found


def run(config: RunConfig) -> dict[str, Any]:
    """Run a recipe by its system; returns what `summary.json` holds (nothing on all ranks but the first)."""
    result: dict[str, Any] = import_module(RUNS[config.system]).train(config)
    return result
