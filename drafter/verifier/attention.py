"""The glue to transformers: what every attention layer of a verifier calls in place of its own kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_utils import AttentionInterface

from drafter.attention import KVCache, LayerShape, plain, sdpa
from drafter.attention.sdpa import visible

ATTENTION = "block_drafter"
HARMLESS = {"position_ids", "position_embeddings", "use_cache", "output_attentions", "output_hidden_states"}


class Attends(Protocol):
    """What attention may be over: a cache, or what takes its place."""

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
        """Attend from query [B, Q, H, D], given the new key and value [B, Q, Hk, D]; returns [B, Q, H, D]."""
        ...


_cache: ContextVar[Attends | None] = ContextVar("the cache that a pass reads and writes", default=None)
_shapes: ContextVar[dict[int, LayerShape] | None] = ContextVar("what each layer of a pass would keep", default=None)


@contextmanager
def over(cache: Attends) -> Iterator[None]:
    """Attention inside is over `cache`. A context and no argument: some layers do not hand arguments on."""
    token = _cache.set(cache)
    try:
        yield
    finally:
        _cache.reset(token)


@contextmanager
def measured() -> Iterator[dict[int, LayerShape]]:
    """Layer → the shape of what it keeps of a token, as found in a pass inside."""
    found: dict[int, LayerShape] = {}
    token = _shapes.set(found)
    try:
        yield found
    finally:
        _shapes.reset(token)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention, over the cache of `over` where there is one.

    Args:
        s_aux: scores of attention sinks, [H].
    Raises:
        ValueError: the layer asks for something else: a mask of its own, say.
    """
    unknown = sorted(name for name, given in others.items() if given is not None and name not in HARMLESS)
    if attention_mask is not None:
        unknown.append("a mask of its own")
    if is_causal is False:
        unknown.append("what lies ahead")
    if dropout:
        unknown.append("dropout")
    if unknown:
        raise ValueError(f"its attention takes {', '.join(unknown)}")
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # [B, Q, H, D]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    cache, shapes = _cache.get(), _shapes.get()
    if shapes is not None:
        shapes[module.layer_idx] = LayerShape(key.shape[2], key.shape[3], value.shape[3])
    if cache is not None:
        settings: dict[str, Any] = {"causal": True, "scale": scale, "window": sliding_window}
        if isinstance(cache, KVCache):
            settings |= {"softcap": softcap, "sinks": s_aux}
        elif softcap is not None or s_aux is not None:
            raise ValueError("its attention takes soft caps or sinks, which only a cache can")
        return cache.attend(module.layer_idx, query, key, value, **settings).contiguous(), None  # some layers `view` it
    rows = torch.zeros(1, dtype=torch.long, device=query.device)
    mask = visible(rows, query.shape[1], key.shape[1], causal=True, window=sliding_window)
    if softcap is not None or s_aux is not None:
        return plain.attend(query, key, value, mask, scale, softcap, s_aux), None
    return sdpa.attend(query, key, value, mask, scale).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)  # no mask function goes with it: the mask is made above
