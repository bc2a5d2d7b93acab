"""Many continuations of one row in two passes: the row's own tokens once, then a group of slots behind every position.

Group t stands behind position t: its slot o (1, 2, ..., K) is at position t + o and sees positions 0..t of the row and
slots 1..o of its own group; the row sees no group. Each group is thus what a pass over row[:t + 1] and its slots alone
would be. Both classes take the place of a cache in the glue of the verifier's attention.

Groups attend a few at a time: to the row as far as they see it and to each other, masked. So neither time nor memory is
spent on what a group never sees: N K (N / 2 + QUERIES) scores, not N K (N + N K), and never more than a part at once.

Shapes: N positions of the row, K slots of a group, P groups of a part, H heads (Hk of keys and values), C width of a
head.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from drafter.attention.sdpa import attend, visible

QUERIES = 128  # slots of a part: large enough for the products to be fast


def group_positions(length: int, slots: int, device: torch.device) -> Tensor:
    """Where the slots of all groups stand, [1, N*K]."""
    behind = torch.arange(1, slots + 1, device=device)
    return (torch.arange(length, device=device)[:, None] + behind).view(1, -1)  # [1, N*K]


def group_mask(groups: range, row: range, slots: int, window: int | None, device: torch.device) -> Tensor:
    """What each slot of some groups sees of a part of the row and of the slots of these groups, bool [P*K, R + P*K].

    Args:
        row: the positions of that part, R of them.
        window: positions that a query reaches back, itself included; None for all.
    """
    group = torch.arange(groups.start, groups.stop, device=device).repeat_interleave(slots)  # [P*K]
    order = torch.arange(1, slots + 1, device=device).repeat(len(groups))  # [P*K]
    position = torch.arange(row.start, row.stop, device=device)  # [R]
    before = position <= group[:, None]  # [P*K, R]
    own = (group == group[:, None]) & (order <= order[:, None])  # [P*K, P*K]
    if window is not None:
        before &= position > (group + order)[:, None] - window
        own &= order > order[:, None] - window
    return torch.cat([before, own], dim=1)


class Context:
    """A row's keys and values, layer by layer, kept with their gradients by the pass that makes them."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[1]

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Keep key, value [B, N, Hk, C] and attend from query [B, N, H, C] to itself and what is before."""
        self.layers[layer] = key, value
        start = torch.zeros(1, dtype=torch.long, device=query.device)
        return attend(query, key, value, visible(start, query.shape[1], key.shape[1], causal, window), scale)


class Groups:
    """The pass of all groups of slots behind a `Context`.

    Args:
        queries: slots of a part.
    """

    def __init__(self, context: Context, slots: int, queries: int = QUERIES):
        self.context, self.slots, self.together = context, slots, max(1, queries // slots)
        self.masks: dict[int | None, list[Tensor]] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Attend from query [B, N*K, H, C] to the row and to what is before in each group."""
        keys, values = self.context.layers[layer]  # [B, N, Hk, C]
        parts = list(self.parts(window))
        if window not in self.masks:
            masks = [group_mask(groups, row, self.slots, window, query.device) for groups, row in parts]
            self.masks[window] = [mask[None, None] for mask in masks]  # [1, 1, P*K, R + P*K] each
        found = []
        for (groups, row), mask in zip(parts, self.masks[window], strict=True):
            own, seen = slice(groups.start * self.slots, groups.stop * self.slots), slice(row.start, row.stop)
            near = torch.cat([keys[:, seen], key[:, own]], dim=1), torch.cat([values[:, seen], value[:, own]], dim=1)
            found.append(attend(query[:, own], *near, mask, scale))
        return torch.cat(found, dim=1)

    def parts(self, window: int | None) -> Iterator[tuple[range, range]]:
        """Groups that attend together, and the positions of the row that any of them sees."""
        for start in range(0, self.context.length, self.together):
            groups = range(start, min(start + self.together, self.context.length))
            first = 0 if window is None else max(0, start + 2 - window)  # the first slot is one position further
            yield groups, range(min(first, groups.stop), groups.stop)
