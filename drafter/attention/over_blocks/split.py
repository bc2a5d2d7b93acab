"""Context and own block apart: nothing is spent on block x block, and no key is copied for a block.

Blocks are taken a few at a time, each few with the stretch of context that any of them sees: anchors ascend, so early
blocks read little. The mathematics is in `joined.py`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from drafter.attention.over_blocks.joined import Few, Joined
from drafter.blocks import document_starts

SCORES_AT_ONCE = 1 << 17  # of all heads: on a CPU they stay in its cache
ON_AN_ACCELERATOR = 1 << 26


class Split:
    """Every device and dtype."""

    def __init__(self, anchors: Tensor, length: int, size: int, documents: Tensor | None = None):
        self.anchors, self.length, self.size = anchors, length, size
        self.starts = document_starts(anchors, documents)  # [B, A]
        self._spans: list[list[tuple[int, int]]] | None = None
        self._parts: dict[tuple[int, int | None], list[Few]] = {}

    @torch.compiler.disable
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
        device, tensors = query.device.type, [query, key, value, context_key, context_value]
        if torch.is_autocast_enabled(device):  # as it would for a product
            tensors = [one.to(torch.get_autocast_dtype(device)) for one in tensors]
        dtype, wide = tensors[0].dtype, torch.promote_types(tensors[0].dtype, torch.float32)
        tensors = [one.to(wide) for one in tensors]
        groups, heads = key.shape[2], query.shape[2]
        query = (tensors[0] * scale).unflatten(2, (groups, -1)).unflatten(1, (-1, self.size))  # [B, A, K, Hk, g, D]
        query = query.permute(0, 3, 1, 4, 2, 5).flatten(3, 4)  # [B, Hk, A, g*K, D]
        key, value = (one.unflatten(1, (-1, self.size)).permute(0, 3, 1, 2, 4) for one in tensors[1:3])
        context_key, context_value = (one.transpose(1, 2) for one in tensors[3:])
        parts, own = self.parts(heads, window), self.own(causal, window)
        with torch.autocast(device, enabled=False):
            out = Joined.apply(parts, own, query, key, value, context_key, context_value)
        out = out.unflatten(3, (-1, self.size)).permute(0, 2, 4, 1, 3, 5)  # [B, A, K, Hk, g, D']
        return out.flatten(3, 4).flatten(1, 2).to(dtype)

    def own(self, causal: bool, window: int | None) -> Tensor | None:
        """Which slots of its own block a slot does not see, bool [K, K]; None where it sees all."""
        slot = torch.arange(self.size, device=self.anchors.device)
        behind = slot[:, None] - slot
        hidden = behind < 0 if causal else None
        if window is None:
            return hidden
        return behind.abs() >= window if hidden is None else hidden | (behind >= window)

    def parts(self, heads: int, window: int | None) -> list[Few]:
        """All blocks, and which of them are taken together."""
        if (heads, window) not in self._parts:
            self._parts[heads, window] = list(self._divided(heads, window))
        return self._parts[heads, window]

    def _divided(self, heads: int, window: int | None) -> Iterator[Few]:
        if self._spans is None:  # the host waits for the device here, once
            self._spans = torch.stack([self.starts, self.anchors], dim=-1).tolist()
        room = SCORES_AT_ONCE if self.anchors.device.type == "cpu" else ON_AN_ACCELERATOR
        count, each = self.anchors.shape[1], heads * self.size * (self.length + self.size)
        some = min(count, max(1, room // each))
        rows = max(1, room // (each * some))
        for row in range(0, len(self._spans), rows):
            for block in range(0, count, some):
                spans = [span for one in self._spans[row : row + rows] for span in one[block : block + some]]
                yield self._few(slice(row, row + rows), slice(block, block + some), spans, window)

    def _few(self, rows: slice, blocks: slice, spans: list[tuple[int, int]], window: int | None) -> Few:
        if window is not None:
            spans = [(max(start, end - window + 1), end) for start, end in spans]
        some = [(start, end) for start, end in spans if start < end] or [(0, 1)]
        first, last = min(start for start, _ in some), max(end for _, end in some)
        seen = first  # by all of them, from the first on to here
        if window is None and all(start <= first for start, _ in spans):
            seen = max(first, min(end for _, end in spans))
        if seen == last:
            return Few(rows, blocks, slice(first, last), None)
        place = torch.arange(seen, last, device=self.anchors.device)
        anchors, starts = (one[rows, blocks, None, None] for one in (self.anchors, self.starts))
        hidden = (place >= anchors) | (place < starts)  # [b, a, 1, E']
        if window is not None:
            own = anchors + torch.arange(self.size, device=place.device)[:, None]  # [b, a, K, 1]
            hidden = hidden | (place <= own - window)
        return Few(rows, blocks, slice(first, last), hidden[:, None, :, None])
