"""The layouts in which a drafter is stored, one file each; `base` says what a layout is."""

from collections.abc import Mapping
from typing import Any

from drafter.layouts.base import FACTS, MISSING, Layout, get, shapes
from drafter.layouts.canonical import CANONICAL
from drafter.layouts.native import TRANSFORMERS
from drafter.layouts.rules import RULES
from drafter.layouts.speculators import SPECULATORS

__all__ = ["FACTS", "LAYOUTS", "MISSING", "RULES", "Layout", "detect", "get", "shapes"]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (CANONICAL, TRANSFORMERS, SPECULATORS)}


def detect(config: Mapping[str, Any]) -> Layout:
    """The layout of a `config.json`, by the field that only that one has.

    Raises:
        ValueError: it is of none of them.
    """
    if "speculators_model_type" in config or "transformer_layer_config" in config:
        return SPECULATORS
    if config.get("model_type") == TRANSFORMERS.fixed["model_type"]:
        return TRANSFORMERS
    architectures = config.get("architectures") or []
    if "dflash_config" in config or CANONICAL.fixed["architectures"][0] in architectures:
        return CANONICAL
    raise ValueError(
        f"config.json: architectures={architectures!r}, model_type={config.get('model_type')!r} is no DFlash drafter; "
        f"name a drafter in one of the layouts {', '.join(LAYOUTS)}"
    )
