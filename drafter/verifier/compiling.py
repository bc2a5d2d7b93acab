"""What `compile: auto | on | off` makes of a verifier's passes: CUDA graphs on GPUs, tiles on CPUs."""

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from drafter.attention import choose_replay
from drafter.machine.tiling import linears, why_no_room, why_not_tiled
from drafter.verifier.selfcheck import why_tiles_differ
from drafter.verifier.tiled import KNOWN, TiledPass

if TYPE_CHECKING:
    from drafter.verifier.body import Verifier

log = logging.getLogger(__name__)

MATRICES = 7  # of a layer: queries, keys, values, out, gate, up, down


def check_compile(requested: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise a ValueError if `auto | on | off` is none of these, or `on` where passes are neither graphs nor tiled."""
    reason = why_not_tiled(device, dtype)
    if requested == "on" and device.type == "cpu" and reason:
        raise ValueError(f"compile='on': {reason}; use compile=auto")
    choose_replay("auto" if requested == "on" and device.type == "cpu" else requested, device)


def choose_tiles(requested: str, verifier: "Verifier") -> bool:
    """Turn `auto | on | off`, which `check_compile` took, into whether passes of decoding are tiled.

    Raises:
        ValueError: `on` for layers that can't be.
    """
    if requested == "off" or verifier.device.type != "cpu":
        return False
    if why_not_tiled(verifier.device, verifier.dtype):
        return False
    reason = _unknown(verifier.layers)
    if reason and requested == "on":
        raise ValueError(f"compile='on': {reason}; use compile=auto")
    if reason:
        log.info("tiles: off, %s", reason)
    return reason is None


def _unknown(layers: nn.ModuleList) -> str | None:
    """Why passes through these layers can't be tiled, or None."""
    for layer in layers:
        name = type(layer).__name__
        if type(layer) not in KNOWN:
            return f"layers of type {name} stay as they are"
        matrices = linears(layer)
        if len(matrices) != MATRICES or any(type(one) is not nn.Linear for one in matrices):
            return f"a {name} here has other matrices than its own"
    return None


def tile(verifier: "Verifier", required: bool) -> TiledPass | None:
    """The verifier's body in tiles, compared with its own layers; None, and told, where it can't be.

    Args:
        required: what can't be is an error instead.
    Raises:
        ValueError: tiles are required, and memory does not suffice or the layers differ.
    """
    needed = sum(one.weight.nbytes for one in linears(verifier.layers)) + verifier.head.nbytes
    reason, made = why_no_room(needed), None
    if reason is None:
        made = TiledPass(verifier)
        reason = why_tiles_differ(verifier, made)
    if reason and required:
        raise ValueError(f"compile='on': {reason}; use compile=auto")
    if reason:
        log.warning("tiles: off, %s", reason)
        return None
    log.info("tiles: %d layers and the head, %.2f GB beside their weights", verifier.num_layers, needed / 1e9)
    return made
