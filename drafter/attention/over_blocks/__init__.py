"""Attention of many blocks of a row at once, as training and walks ask for it: one contract, one file per kernel.

A kernel is made for the blocks of a batch, `(anchors [B, A], length S, size K, documents [B, S] or None)`, and called
by every layer with the slots' query [B, A*K, H, D], key [B, A*K, Hk, D] and value [B, A*K, Hk, D'] and the context's
key [B, S, Hk, D] and value [B, S, Hk, D']; it returns [B, A*K, H, D']. A slot sees what `drafter.blocks.block_mask`
and `narrowed` say: context strictly before its anchor in its document, and its own block.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from drafter.attention.over_blocks import flex
from drafter.attention.over_blocks.eager import Eager
from drafter.attention.over_blocks.flex import Flex
from drafter.attention.over_blocks.split import Split

log = logging.getLogger(__name__)
_logged: set[str] = set()

DENSE_SCORES = 1 << 16
"""Slots x keys of a row up to which `auto` takes one dense product; above, it costs more (docs/results/training)."""

FLEX_SCORES = 1 << 24
"""Slots x keys of a row from which `auto` takes flex on CUDA: below, compiling it takes longer than it saves."""


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
    why = flex.missing(device, width) if requested == "flex" else None
    if why:
        raise ValueError(f"training.attention='flex': {why}; use auto, split or eager")


def choice(device: torch.device, slots: int, length: int, width: int) -> str:
    """The kernel that `auto` takes for so many slots of a row behind `length` positions, with heads of that width."""
    scores = slots * (length + slots)
    if scores <= DENSE_SCORES:
        return "eager"
    return "flex" if scores >= FLEX_SCORES and flex.missing(device, width) is None else "split"


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
