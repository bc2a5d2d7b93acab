"""The contract on flash-attn's kernel for caches: CUDA, half precision. An optional extra, probed and never assumed."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

WIDEST = 256  # numbers of a head's key


@cache
def missing() -> str | None:
    """Why flash-attn can't be used here, or None. Importing is the probe: a package built without kernels fails it."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        kernel()
    except ImportError as error:
        return f"flash_attn can't be imported ({error}); install the extra: pip install --no-build-isolation '.[flash]'"
    return None


def kernel() -> Callable[..., Tensor]:
    """The one door to the package: `flash_attn_with_kvcache`, bottom-right causal, writing in place."""
    from flash_attn import flash_attn_with_kvcache

    return flash_attn_with_kvcache


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    causal: bool,
    scale: float,
    window: int | None,
) -> Tensor:
    """Write key and value [B, Q, Hk, D] at `lengths` (int32 [B]) and attend, in one kernel; returns [B, Q, H, D]."""
    return kernel()(
        query,
        keys,
        values,
        k=key,
        v=value,
        cache_seqlens=lengths,
        softmax_scale=scale,
        causal=causal,
        window_size=(-1, -1) if window is None else (window - 1, 0 if causal else -1),  # -1: all of that side
    )
