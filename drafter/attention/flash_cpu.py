"""The contract on our own kernel for caches: CPUs, bfloat16, few new tokens (`drafter/kernels/attention.c`)."""

from functools import cache

import torch
from torch import Tensor

from drafter import kernels
from drafter.attention import sdpa

FEW = 64  # new tokens of a row; more are a prompt, whose products torch does as fast
NEAR = 0.01  # of the output's size: bfloat16 keeps 8 bits


@cache
def missing() -> str | None:
    """Why it can't be used here, or None; compared once with torch's attention."""
    if reason := kernels.missing():
        return reason
    generator = torch.Generator().manual_seed(0)
    query, key, value, keys, values = (
        torch.randn(2, size, heads, 40, generator=generator).bfloat16()
        for size, heads in ((3, 4), (3, 2), (3, 2), (150, 2), (150, 2))
    )
    lengths = torch.tensor([140, 7])
    found = kernels.attend_cache(query, key, value, keys, values, lengths, 140, True, 0.2, None).float()
    mask = sdpa.visible(lengths, 3, 143, causal=True, window=None)
    own = sdpa.attend(query.float(), keys[:, :143].float(), values[:, :143].float(), mask, 0.2)
    off = float((found - own).norm() / own.norm())
    return None if off <= NEAR else f"what it computes is not attention here (off by {off:.2g}): another CC may do"


def fits(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether it takes query [B, Q, H, D] over keys [B, S, Hk, D] and values [B, S, Hk, D']."""
    width = keys.shape[-1]
    one_size = values.shape[-1] == width <= kernels.WIDEST and width % 2 == 0 and keys.stride() == values.stride()
    return one_size and query.shape[1] <= FEW and query.dtype == keys.dtype == torch.bfloat16


attend = kernels.attend_cache
