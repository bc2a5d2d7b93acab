"""Attention of many blocks of a row at once, as training and walks ask for it: one contract, one file per kernel.

A kernel is made for the blocks of a batch, `(anchors [B, A], length S, size K, documents [B, S] or None)`, and called
by every layer with the slots' query [B, A*K, H, D], key [B, A*K, Hk, D] and value [B, A*K, Hk, D'] and the context's
key [B, S, Hk, D] and value [B, S, Hk, D']; it returns [B, A*K, H, D']. A slot sees what `drafter.blocks.block_mask`
and `narrowed` say: context strictly before its anchor in its document, and its own block.
"""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from drafter.attention.over_blocks.eager import Eager
from drafter.attention.over_blocks.flex import Flex
from drafter.attention.over_blocks.split import Split

log = logging.getLogger(__name__)
_logged: set[str] = set()

DENSE_SCORES = 1 << 16
"""Slots x keys of a row up to which `auto` takes one dense product; above, it costs more (docs/results/training)."""

FLEX_SCORES = 1 << 24
"""Slots x keys of a row from which `auto` takes flex on CUDA: below, compiling it takes longer than it saves."""

FLEX_WIDTH = 16  # of a head, at least: its kernels are made of tiles that wide


class OverBlocks(Protocol):
    """Attention of the blocks of a batch."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context_key: Tensor,
        context_value: Tensor,
        *,
        causal: bool,
        window: int | None,
        scale: float,
    ) -> Tensor: ...


KERNELS: dict[str, Callable[..., OverBlocks]] = {
    "eager": Eager,
    "split": Split,
    "flex": Flex,
}


def check_over_blocks(requested: str, device: torch.device | str, width: int) -> None:
    """Raise a ValueError where the kernel can't train heads of that width on the device."""
    if requested == "flex" and torch.device(device).type != "cuda":
        raise ValueError("training.attention='flex': needs a CUDA device; use auto, split or eager")
    if requested == "flex" and width < FLEX_WIDTH:
        raise ValueError(f"training.attention='flex': needs heads of {FLEX_WIDTH} or more, not {width}; use split")


def choice(device: torch.device, slots: int, length: int, width: int) -> str:
    """The kernel that `auto` takes for so many slots of a row behind `length` positions, with heads of that width."""
    scores = slots * (length + slots)
    if scores <= DENSE_SCORES:
        return "eager"
    compiles = device.type == "cuda" and width >= FLEX_WIDTH and find_spec("triton") is not None
    return "flex" if compiles and scores >= FLEX_SCORES else "split"


def over_blocks(
    requested: str, anchors: Tensor, length: int, size: int, documents: Tensor | None, width: int
) -> OverBlocks:
    """The kernel asked for, or with `auto` the one for blocks of this size, ready for the blocks of a batch."""
    kernel = requested
    if requested == "auto":
        slots = anchors.shape[1] * size
        kernel = choice(anchors.device, slots, length, width)
        if kernel not in _logged:
            _logged.add(kernel)
            log.info("attention over blocks: %s (%d slots behind %d positions)", kernel, slots, length)
    return KERNELS[kernel](anchors, length, size, documents)
