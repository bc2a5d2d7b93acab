"""The library's functions on tensors: bfloat16, on a CPU, without a gradient."""

from collections.abc import Callable
from ctypes import c_float, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from drafter.kernels.build import library

WIDEST = 256  # numbers of a head

SIGNATURES: dict[str, list[Any]] = {
    "work_of": [c_int64] * 5,
    "attend_cache": [*[c_void_p] * 10, *[c_int64] * 12, c_float],
    "add_norm": [*[c_void_p] * 5, *[c_int64] * 2, c_float, c_int64],
    "rotate": [*[c_void_p] * 5, *[c_int64] * 5, c_float],
    "gate": [*[c_void_p] * 2, *[c_int64] * 2],
}


@cache
def _function(name: str) -> Callable[..., Any]:
    found = getattr(library(), name)
    found.argtypes, found.restype = SIGNATURES[name], c_int64 if name == "work_of" else None
    return found


def _at(x: Tensor, contiguous: bool = True) -> int:
    """Its address.

    Raises:
        ValueError: it is not what the kernels read.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or (contiguous and not x.is_contiguous()):
        raise ValueError(f"kernels: {x.dtype} {tuple(x.shape)} on {x.device}: needs bfloat16, on a CPU, contiguous")
    return x.data_ptr()


def attend_cache(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    longest: int,
    causal: bool,
    scale: float,
    window: int | None,
    tree: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Write key and value [B, Q, Hk, D] at `lengths` (int64 [B], at most `longest`) and attend; returns [B, Q, H, D].

    A query's output has the same bits beside any other rows and queries, and on any number of threads.

    Args:
        query: [B, Q, H, D].
        keys, values: [B, S, Hk, D] of one layout, rows anywhere; D even and at most `WIDEST`.
        tree: depths (int64 [B, Q]) and ancestors (bool [B, Q, Q]) of new tokens that are no chain.
    """
    batch, count, heads, width = query.shape
    kv_heads = keys.shape[2]
    (query, token), (key, key_token), (value, value_token) = (_packed(one) for one in (query, key, value))
    depths, ancestors = (one.contiguous() for one in tree) if tree else (None, None)
    needed = _function("work_of")(batch, kv_heads, heads // kv_heads * count, width, longest + count)
    work = torch.empty(needed, dtype=torch.float32)
    out = torch.empty(batch, count, heads, width, dtype=query.dtype)
    _function("attend_cache")(
        *(_at(one, contiguous=False) for one in (query, key, value, keys, values)),
        lengths.data_ptr(),
        None if depths is None else depths.data_ptr(),
        None if ancestors is None else ancestors.data_ptr(),
        out.data_ptr(),
        work.data_ptr(),
        batch,
        count,
        heads,
        kv_heads,
        width,
        token,
        key_token,
        value_token,
        keys.stride(0),
        longest,
        causal,
        window or 0,
        scale,
    )
    return out


def _packed(x: Tensor) -> tuple[Tensor, int]:
    """[B, Q, H, D] whose heads lie together, and the one distance at which its tokens lie."""
    batch, count, heads, width = x.shape
    token = x.stride(1) if count > 1 else x.stride(0)  # what a dimension of one element strides means nothing
    together = x.stride(3) == 1 and (heads == 1 or x.stride(2) == width)
    if together and (batch == 1 or count == 1 or x.stride(0) == count * token):
        return x, token
    return x.contiguous(), heads * width


def add_norm(
    hidden: Tensor, added: Tensor | None, gain: Tensor, epsilon: float, once: bool = False
) -> tuple[Tensor, Tensor]:
    """hidden + added (hidden alone, if none), and its RMS norm times `gain`, [..., D] each.

    Args:
        once: rounded once, as torch's RMSNorm; else before the gain, too, as LlamaRMSNorm.
    """
    width = hidden.shape[-1]
    hidden, out = hidden.contiguous(), torch.empty_like(hidden, memory_format=torch.contiguous_format)
    total = hidden if added is None else torch.empty_like(out)
    added = None if added is None else added.contiguous()
    _function("add_norm")(
        _at(hidden),
        None if added is None else _at(added),
        _at(gain),
        _at(total),
        _at(out),
        hidden.numel() // width,
        width,
        epsilon,
        once,
    )
    return total, out


def rotate(
    heads: Tensor,
    rope: tuple[Tensor, Tensor],
    queries: int,
    keys: int,
    gains: tuple[Tensor, Tensor] | None = None,
    epsilon: float = 0.0,
) -> None:
    """Norm (with gains) and rotate the first heads of `heads` [B, Q, queries + keys + others, D], contiguous, in place.

    Args:
        rope: cos, and sin with the sign of the exchanged halves, B * Q * D numbers each, contiguous.
        gains: of queries and of keys, [D] each.
    """
    batch, count, each, width = heads.shape
    if any(one.numel() != batch * count * width for one in rope):
        raise ValueError(f"kernels: a rotation of {tuple(rope[0].shape)} is not of heads {tuple(heads.shape)}")
    _function("rotate")(
        _at(heads),
        *(_at(one) for one in rope),
        *((None, None) if gains is None else (_at(one) for one in gains)),
        batch * count,
        queries,
        keys,
        width,
        each * width,
        epsilon,
    )


def gate(both: Tensor) -> Tensor:
    """silu(gate) * up of gate and up side by side, [..., 2 * D] -> [..., D]."""
    both = both.contiguous()
    width = both.shape[-1] // 2
    out = torch.empty(*both.shape[:-1], width, dtype=both.dtype)
    _function("gate")(_at(both), _at(out), out.numel() // width, width)
    return out
