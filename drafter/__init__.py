"""Train a block-diffusion drafter against a frozen verifier, decode with both, export the drafter.

A folder is a stage or a choice, and a layer imports only those to its left:
losses → sources → config, files → kernels → machine → engine → blocks, layouts → attention → verifier → answers →
data → models, verification → taps → decode, export → evaluation → check, regenerate → training → ablation → commands.

Shape letters, everywhere: B batch, S sequence, A anchors, G draft_length, K block_size (1 + G), V vocabulary, D width,
H heads, T taps.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drafter.decode import SpeculativeDecoder
    from drafter.models import BlockDiffusionDrafter, CausalDrafter
    from drafter.verifier import Verifier

__all__ = ["BlockDiffusionDrafter", "CausalDrafter", "SpeculativeDecoder", "Verifier"]

_HOMES = {
    "BlockDiffusionDrafter": "drafter.models",
    "CausalDrafter": "drafter.models",
    "SpeculativeDecoder": "drafter.decode",
    "Verifier": "drafter.verifier",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `drafter.config` alone stays cheap to import."""
    if name not in _HOMES:
        raise AttributeError(f"module 'drafter' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
