"""The layouts in which a drafter is stored, one file each; `base` says what a layout is."""

from collections.abc import Mapping
from typing import Any

from drafter.layouts.base import FACTS, MISSING, SHAPES, Layout, get
from drafter.layouts.canonical import CANONICAL
from drafter.layouts.native import TRANSFORMERS
from drafter.layouts.rules import RULES
from drafter.layouts.speculators import SPECULATORS

__all__ = [
    "CANONICAL",
    "FACTS",
    "LAYOUTS",
    "MISSING",
    "RULES",
    "SHAPES",
    "Layout",
    "architectures",
    "detect",
    "find_layout",
    "get",
]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (CANONICAL, TRANSFORMERS, SPECULATORS)}


def find_layout(config: Mapping[str, Any]) -> Layout | None:
    """The layout of a `config.json`, by the field that only that one has; None where it is no drafter's."""
    if "speculators_model_type" in config or "transformer_layer_config" in config:
        return SPECULATORS
    if config.get("model_type") == TRANSFORMERS.fixed["model_type"]:
        return TRANSFORMERS
    if "dflash_config" in config or CANONICAL.fixed["architectures"][0] in architectures(config):
        return CANONICAL
    return None


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The classes that a `config.json` names; none where it holds something else."""
    found = config.get("architectures")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def detect(config: Mapping[str, Any]) -> Layout:
    """The layout of a `config.json`.

    Raises:
        ValueError: it is of none of them.
    """
    layout = find_layout(config)
    if layout is not None:
        return layout
    raise ValueError(
        f"config.json: architectures={config.get('architectures')!r}, model_type={config.get('model_type')!r} is no "
        f"DFlash drafter; name a drafter in one of the layouts {', '.join(LAYOUTS)}"
    )
