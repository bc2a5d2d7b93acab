"""What lies between the products of a decoder layer: torch's operations as transformers calls them, or our kernels."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from drafter import kernels

log = logging.getLogger(__name__)
_logged: set[str] = set()

SILU = (nn.SiLU, type(ACT2FN["silu"]))
Rope = tuple[Tensor, Tensor]  # cos, and sin with the sign of the exchanged halves, [B, Q, 1, D] each
Heads = tuple[int, int]  # of queries, and of keys as of values


class Between:
    """By torch, in any dtype: the same operations in the same order."""

    def add_norm(self, hidden: Tensor, added: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """hidden + added (hidden alone, if none), and that normed, [B, Q, D] each."""
        total = hidden if added is None else hidden + added
        return total, norm(total)

    def rotate(
        self, made: Tensor, rope: Rope, heads: Heads, norms: Sequence[nn.Module]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values of `made` [B, Q, H + 2 Hk, D], which may be overwritten.

        Args:
            norms: of queries and of keys, before they are rotated; or none.
        """
        asked, value = made.split((sum(heads), heads[1]), dim=2)
        if norms:
            parts = asked.split(heads, dim=2)
            asked = torch.cat([norm(part) for norm, part in zip(norms, parts, strict=True)], dim=2)
        cos, sin = rope
        query, key = (asked * cos + asked.roll(asked.shape[-1] // 2, -1) * sin).split(heads, dim=2)
        return query, key, value

    def gate(self, both: Tensor, act: nn.Module) -> Tensor:
        """act(gate) * up of gate and up side by side, [B, Q, 2 * D] -> [B, Q, D]."""
        gate, up = both.chunk(2, dim=-1)
        return act(gate) * up


class CompiledBetween(Between):
    """By `drafter.kernels`: bfloat16 on a CPU; a third of the calls."""

    def add_norm(self, hidden: Tensor, added: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
        return kernels.add_norm(hidden, added, norm.weight, norm.variance_epsilon)

    def rotate(self, made: Tensor, rope: Rope, heads: Heads, norms: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        gains = (norms[0].weight, norms[1].weight) if norms else None
        kernels.rotate(made, rope, *heads, gains, norms[0].variance_epsilon if norms else 0.0)
        return made.split((*heads, heads[1]), dim=2)

    def gate(self, both: Tensor, act: nn.Module) -> Tensor:
        return kernels.gate(both) if type(act) in SILU else super().gate(both, act)


def choose_between(device: torch.device, dtype: torch.dtype) -> Between:
    """Our kernels where they can be; torch's operations elsewhere; that there is no compiler is logged once."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return Between()
    reason = kernels.missing()
    if reason is None:
        return CompiledBetween()
    if reason not in _logged:
        _logged.add(reason)
        log.info("kernels between products: torch's, %s", reason)
    return Between()
