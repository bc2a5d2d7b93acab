"""Compiled FlexAttention (arXiv:2412.05496) with a compiled block mask: tiles that no slot sees are skipped on CUDA.

Without a CUDA device torch has its forward pass alone, and no gradient.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from drafter.blocks import document_starts

WIDTH = 16  # of a head, at least: its kernels are made of tiles that wide


def missing(device: torch.device | str, width: int) -> str | None:
    """Why flex can't train heads of that width on the device; None where it can."""
    if torch.device(device).type != "cuda":
        return "needs a CUDA device"
    if width < WIDTH:
        return f"needs heads of {WIDTH} or more, not {width}"
    if find_spec("triton") is None:
        return "needs Triton, which is not installed"
    if not (os.environ.get("CC") or which("gcc") or which("clang")):
        return "needs a C compiler: gcc, clang or one that $CC names"
    return None


class Flex:
    """CUDA; elsewhere its forward pass, uncompiled and slow."""

    def __init__(self, anchors: Tensor, length: int, size: int, documents: Tensor | None = None):
        self.anchors, self.length, self.size = anchors, length, size
        self.starts = document_starts(anchors, documents)  # [B, A]
        self._masks: dict[tuple[bool, int | None], BlockMask] = {}

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
    ) -> Tensor:
        if (causal, window) not in self._masks:
            self._masks[causal, window] = self._mask(causal, window)
        keys, values = torch.cat([context_key, key], dim=1), torch.cat([context_value, value], dim=1)
        query, keys, values = (one.transpose(1, 2).to(value.dtype) for one in (query, keys, values))
        attend: Any = _compiled(flex_attention) if query.is_cuda else flex_attention
        mask = self._masks[causal, window]
        return attend(query, keys, values, block_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)

    def _mask(self, causal: bool, window: int | None) -> BlockMask:
        (batch, count), size, length = self.anchors.shape, self.size, self.length
        anchors, starts = self.anchors, self.starts

        def sees(row: Tensor, head: Tensor, slot: Tensor, place: Tensor) -> Tensor:
            block, offset = slot // size, slot % size
            anchor = anchors[row, block]
            own = (place - length).clamp(min=0)
            there = torch.where(place < length, place, anchor + own % size)  # where the key stands
            seen = torch.where(place < length, (place < anchor) & (place >= starts[row, block]), own // size == block)
            behind = anchor + offset - there
            if causal:
                seen = seen & (behind >= 0)
            return seen if window is None else seen & (behind.abs() < window)

        make: Any = _compiled(create_block_mask) if anchors.is_cuda else create_block_mask
        return make(sees, batch, None, count * size, length + count * size, device=anchors.device)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)  # rows of every step have a length of their own
