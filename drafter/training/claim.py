"""The directory of a run: taken for one recipe, with what that run settled on."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from drafter import config as configs
from drafter.config import Config
from drafter.files import write_json
from drafter.training.prepare import Material


def claim(config: Config) -> Path:
    """The run's directory, holding its resolved recipe.

    Raises:
        ValueError: it holds a run of another recipe.
    """
    directory = config.directory
    path = directory / "config.yaml"
    if (directory / "checkpoints").exists() and not _holds(path, config):  # without one there is nothing to lose
        raise ValueError(
            f"name={config.name!r}: {directory} holds a run of another recipe; choose another name or delete it"
        )
    directory.mkdir(parents=True, exist_ok=True)
    configs.save(config, path)
    return directory


def settle(directory: Path, material: Material) -> Material:
    """The precision that this run began in: asked anew, a busy machine, or another one, may find another faster."""
    path = directory / "precision.json"
    if (directory / "checkpoints").exists() and path.is_file():
        return replace(material, fast=getattr(torch, json.loads(path.read_text())["precision"]))
    write_json(path, {"precision": str(material.fast).removeprefix("torch.")})
    return material


def _holds(path: Path, config: Config) -> bool:
    try:
        return configs.load(path) == config
    except ValueError:  # missing, or of another version
        return False
