"""Many continuations of one row in two passes: the row's own tokens once, then a group of slots behind every position.

Group t stands behind position t: its slot o (1, 2, ..., K) is at position t + o and sees positions 0..t of the row and
slots 1..o of its own group; the row sees no group. Each group is thus what a pass over row[:t + 1] and its slots alone
would be. Both classes take the place of a cache in the glue of the verifier's attention.

Shapes: N positions of the row, K slots of a group, H heads (Hk of keys and values), C width of a head.
"""

import torch
from torch import Tensor

from drafter.attention.sdpa import attend, visible


def group_positions(length: int, slots: int, device: torch.device) -> Tensor:
    """Where the slots of all groups stand, [1, N*K]."""
    behind = torch.arange(1, slots + 1, device=device)
    return (torch.arange(length, device=device)[:, None] + behind).view(1, -1)  # [1, N*K]


def group_mask(length: int, slots: int, window: int | None, device: torch.device) -> Tensor:
    """What each slot sees of the row and of all slots, bool [N*K, N + N*K].

    Args:
        window: positions that a query reaches back, itself included; None for all.
    """
    group = torch.arange(length, device=device).repeat_interleave(slots)  # [N*K]
    order = torch.arange(1, slots + 1, device=device).repeat(length)  # [N*K]
    row = torch.arange(length, device=device)  # [N]
    before = row <= group[:, None]  # [N*K, N]
    own = (group == group[:, None]) & (order <= order[:, None])  # [N*K, N*K]
    if window is not None:
        before &= row > (group + order)[:, None] - window
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
    """The pass of all groups of slots behind a `Context`."""

    def __init__(self, context: Context, slots: int):
        self.context, self.slots = context, slots
        self.masks: dict[int | None, Tensor] = {}

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
        if window not in self.masks:
            mask = group_mask(self.context.length, self.slots, window, query.device)
            self.masks[window] = mask[None, None]  # [1, 1, N*K, N + N*K]
        keys, values = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        return attend(query, keys, values, self.masks[window], scale)
