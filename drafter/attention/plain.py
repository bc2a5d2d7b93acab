"""The contract where no kernel takes what a layer asks for: soft-capped scores, and attention sinks."""

import torch
from torch import Tensor

QUERIES_PER_PASS = 128  # scores of all heads are held at once


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Grouped-query attention. query [B, Q, H, D]; keys [B, S, Hk, D]; values [B, S, Hk, D']; returns [B, Q, H, D'].

    Scores s become softcap * tanh(s / softcap) (Gemma 2, arXiv:2408.00118), and a sink is a score per head that takes
    its share of the softmax and gives nothing (gpt-oss, arXiv:2508.10925).

    Args:
        mask: bool, broadcastable to [B, 1, Q, S], or None where all is seen.
        sinks: [H].
    """
    passes = range(0, query.shape[1], QUERIES_PER_PASS)
    parts = [slice(start, start + QUERIES_PER_PASS) for start in passes]
    masks = [None if mask is None else mask[:, :, part] for part in parts]
    outs = [
        _attend(query[:, part], keys, values, seen, scale, softcap, sinks)
        for part, seen in zip(parts, masks, strict=True)
    ]
    return torch.cat(outs, dim=1)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    batch, queries, heads, width = query.shape
    kv_heads = keys.shape[2]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, width)
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("bqkgd,bskd->bkgqs", grouped, keys).to(wide) * scale  # [B, Hk, G, Q, S]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], -torch.inf)
    if sinks is not None:
        sink = sinks.to(wide).view(1, kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]  # [B, Hk, G, Q, S]
    else:
        weights = scores.softmax(-1)
    out = torch.einsum("bkgqs,bskd->bqkgd", weights.to(values.dtype), values)
    return out.reshape(batch, queries, heads, values.shape[-1])
