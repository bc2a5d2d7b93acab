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

from drafter.attention.over_blocks.eager import Eager
from drafter.attention.over_blocks.flex import Flex
from drafter.attention.over_blocks.split import Split

log = logging.getLogger(__name__)
_logged: set[str] = set()

DENSE_SCORES = 1 << 16
"""Slots x keys of a row up to which `auto` takes one dense product; above, it costs more (docs/results/training)."""


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


def check_over_blocks(requested: str, device: torch.device | str) -> None:
    """Raise a ValueError where the kernel can't train on the device."""
    if requested == "flex" and torch.device(device).type != "cuda":
        raise ValueError("training.attention='flex': needs a CUDA device; use auto, split or eager")


def over_blocks(requested: str, anchors: Tensor, length: int, size: int, documents: Tensor | None) -> OverBlocks:
    """The kernel asked for, or with `auto` the one for blocks of this size, ready for the blocks of a batch."""
    kernel = requested
    if requested == "auto":
        slots = anchors.shape[1] * size
        kernel = "eager" if slots * (length + slots) <= DENSE_SCORES else "split"
        if kernel not in _logged:
            _logged.add(kernel)
            log.info("attention over blocks: %s (%d slots behind %d positions)", kernel, slots, length)
    return KERNELS[kernel](anchors, length, size, documents)
