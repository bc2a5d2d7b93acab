"""The contract on torch's scaled_dot_product_attention: every device and dtype."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""On CUDA: cuDNN's kernel plans anew for each shape, 26 ms forward and 55 ms backward (H200, torch 2.11), and nearly
every step of training and every prompt has a shape of its own."""


Places = tuple[slice | Tensor, slice | Tensor]  # rows and slots of a cache [B, S, ...]


def behind(lengths: Tensor, count: int, start: int | None = None) -> Places:
    """Where `count` new tokens of each row go: at its length, or at `start` where the host knows it."""
    if start is not None:
        return slice(None), slice(start, start + count)
    rows = torch.arange(len(lengths), device=lengths.device)[:, None]  # [B, 1]
    return rows, lengths[:, None] + torch.arange(count, device=lengths.device)


def visible(
    lengths: Tensor, queries: int, keys: int, causal: bool, window: int | None, padded: bool = False
) -> Tensor | None:
    """Which of the first `keys` cache slots each new query sees.

    Args:
        padded: there are more slots than the longest row fills.
    Returns:
        bool [B, 1, Q, S], or None when every query of every row sees all `keys` slots.
    """
    if not padded and len(lengths) == 1 and window is None and (queries == 1 or not causal):
        return None
    slot = torch.arange(keys, device=lengths.device)  # [S]
    own = lengths[:, None] + torch.arange(queries, device=lengths.device)  # [B, Q] the slot of each query itself
    last = own if causal else own[:, -1:].expand_as(own)
    seen = slot <= last[..., None]  # [B, Q, S]
    if window is not None:
        seen &= slot > own[..., None] - window
    return seen[:, None]


def visible_branches(lengths: Tensor, keys: int, depths: Tensor, ancestors: Tensor, window: int | None) -> Tensor:
    """Which of the first `keys` cache slots each new query sees, when the new tokens are a tree behind the row.

    Args:
        depths: how far behind the row's length each new token stands, [B, Q].
        ancestors: which new tokens each new token follows, itself included, bool [B, Q, Q].
    Returns:
        bool [B, 1, Q, S].
    """
    slot = torch.arange(keys, device=lengths.device) - lengths[:, None]  # [B, S] of the new tokens: 0, 1, ...
    new = (slot >= 0) & (slot < depths.shape[1])  # [B, S]
    place = slot.clamp(0, depths.shape[1] - 1)  # [B, S]
    followed = ancestors.gather(2, place[:, None].expand(-1, depths.shape[1], -1))  # [B, Q, S]
    seen = (slot < 0)[:, None] | (new[:, None] & followed)  # [B, Q, S]
    if window is not None:
        behind = torch.where(new, depths.gather(1, place), slot)  # [B, S] where each key stands, from the length on
        seen &= behind[:, None] > depths[..., None] - window
    return seen[:, None]


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Grouped-query attention. query [B, Q, H, D]; keys [B, S, Hk, D]; values [B, S, Hk, D']; returns [B, Q, H, D'].

    The query heads of a group become queries of their one key/value head, so that keys and values are read once and
    never repeated in memory (in bfloat16 on a CPU several times faster than `enable_gqa` for a few queries).
    """
    batch, queries, heads, width = query.shape
    kv_heads = keys.shape[2]
    group = heads // kv_heads
    folded = query.reshape(batch, queries, kv_heads, group, width).permute(0, 2, 3, 1, 4)
    if mask is not None:
        mask = mask.expand(-1, group, -1, -1).reshape(mask.shape[0], 1, group * queries, mask.shape[-1])
    with sdpa_kernel(WITHOUT_PLANS) if query.is_cuda else nullcontext():
        out = functional.scaled_dot_product_attention(
            folded.reshape(batch, kv_heads, group * queries, width),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask,
            scale=scale,
        )  # [B, Hk, group*Q, D]
    out = out.view(batch, kv_heads, group, queries, values.shape[-1]).permute(0, 3, 1, 2, 4)
    return out.reshape(batch, queries, heads, values.shape[-1])
