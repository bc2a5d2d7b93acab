"""flash-attn's `flash_attn_with_kvcache` in plain torch, one query at a time: its contract as we use it, and no more.

What the kernel refuses, this refuses: other than int32 lengths, rows without room, mixed dtypes, shapes that don't fit.
Facts: flash-attn 2.8.3.post2, `flash_attn_interface.py` and `csrc/flash_attn/flash_api.cpp`.
"""

import torch

HALF = (torch.float16, torch.bfloat16)


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    cache_seqlens=None,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    *,
    dtypes=HALF,
):
    """q [B, Q, H, D]; caches [B, S, Hk, D], written in place; k, v [B, N, Hk, D]; returns [B, Q, H, D].

    Query i stands at key i + (length + N) - Q; `window_size` says how many keys to either side it sees, -1 for all;
    causal puts the right side to 0.
    """
    batch, queries, heads, width = q.shape
    kv_heads = k_cache.shape[2]
    check(q.dtype in dtypes and all(one.dtype == q.dtype for one in (k_cache, v_cache, k, v)), "dtype")
    check(all(one.stride(-1) == 1 for one in (q, k_cache, v_cache, k, v)), "last dimension must be contiguous")
    check(heads % kv_heads == 0, "heads")
    check(width % 8 == 0 and width <= 256, "head dimension")
    check(k_cache.shape == v_cache.shape == (batch, k_cache.shape[1], kv_heads, width), "shape of the caches")
    check(k.shape == v.shape == (batch, k.shape[1], kv_heads, width), "shape of the new keys and values")
    check(cache_seqlens.dtype == torch.int32 and cache_seqlens.shape == (batch,), "cache_seqlens")
    check(cache_seqlens.is_contiguous(), "cache_seqlens")
    left, right = window_size
    out = torch.empty_like(q)
    for row in range(batch):
        start = int(cache_seqlens[row])
        end = start + k.shape[1]
        check(start >= 0 and end <= k_cache.shape[1], "the cache has no room")
        k_cache[row, start:end], v_cache[row, start:end] = k[row], v[row]
        for i in range(queries):
            at = i + end - queries
            first = 0 if left < 0 else max(0, at - left)
            last = at if causal else end - 1 if right < 0 else min(end - 1, at + right)
            for head in range(heads):
                group = head // (heads // kv_heads)
                keys, values = (cache[row, first : last + 1, group].float() for cache in (k_cache, v_cache))
                scores = keys @ q[row, i, head].float() * softmax_scale
                out[row, i, head] = (scores.softmax(0) @ values).to(q.dtype)
    return out


def check(ok, what):
    if not ok:
        raise RuntimeError(f"flash_attn_with_kvcache: {what}")
