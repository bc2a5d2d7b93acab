"""Drafters, one file per architecture; `base` says what every drafter is.

To add one: a class with what `base.Drafter` lists, its entry in DRAFTERS, its proposer in `drafter.decode.proposers`.
"""

from drafter.models.base import Drafter
from drafter.models.block_config import BlockDiffusionConfig
from drafter.models.block_diffusion import BlockDiffusionDrafter
from drafter.models.causal import CausalDrafter
from drafter.models.push_forward import PushForwardConfig, PushForwardModel
from drafter.models.storage import find, read_config

__all__ = [
    "DRAFTERS",
    "BlockDiffusionConfig",
    "BlockDiffusionDrafter",
    "CausalDrafter",
    "Drafter",
    "PushForwardConfig",
    "PushForwardModel",
    "kind_of",
]

DRAFTERS: list[type[Drafter]] = [BlockDiffusionDrafter, CausalDrafter, PushForwardModel]
"""Kinds of drafters; the first one that recognises a `config.json` reads the directory."""


def kind_of(source: str) -> type[Drafter]:
    """The kind of drafter in a directory, or of a hub id, a GGUF file or a packaged name.

    Raises:
        ValueError: there is nothing, or no drafter that is known here.
    """
    config = read_config(find(source))
    for kind in DRAFTERS:
        if kind.recognises(config):
            return kind
    known = ", ".join(kind.__name__ for kind in DRAFTERS)
    raise ValueError(
        f"drafter={source!r}: its config.json says architectures={config.get('architectures')}; name a drafter of one "
        f"of the kinds {known}"
    )
