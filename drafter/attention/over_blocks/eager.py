"""One dense mask for all blocks of a row: the plain definition, which the other kernels must equal.

Its mask and its scores are [A*K, S + A*K], of which blocks see a small part: a row's cost grows with the square of its
blocks.
"""

import torch
from torch import Tensor

from drafter.attention.sdpa import attend
from drafter.blocks import block_mask, narrowed


class Eager:
    """Every device and dtype."""

    def __init__(self, anchors: Tensor, length: int, size: int, documents: Tensor | None = None):
        self.anchors, self.length, self.size = anchors, length, size
        self.mask = block_mask(anchors, length, size, documents)  # [B, A*K, S + A*K]
        self._narrowed: dict[tuple[bool, int | None], Tensor] = {(False, None): self.mask}

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
        kind = causal, window
        if kind not in self._narrowed:
            self._narrowed[kind] = narrowed(self.mask, self.anchors, self.length, self.size, *kind)
        keys, values = torch.cat([context_key, key], dim=1), torch.cat([context_value, value], dim=1)
        return attend(query, keys, values, self._narrowed[kind][:, None], scale)
