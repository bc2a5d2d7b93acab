"""Layers of the block-diffusion drafter: whoever calls them says what a block attends to besides itself."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, rotate_half

from drafter.layouts.base import SLIDING

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (query, key, value) of the block -> attended [B, Q, H, D]


class DrafterAttention(nn.Module):
    """Queries from the block alone; keys and values from context and block by the same projections."""

    def __init__(self, config: Any):
        super().__init__()
        self.width, self.scale = config.head_dim, config.head_dim**-0.5
        hidden, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        bias = config.attention_bias
        self.q_proj = nn.Linear(hidden, heads * self.width, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_heads * self.width, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_heads * self.width, bias=bias)
        self.o_proj = nn.Linear(heads * self.width, hidden, bias=bias)
        self.q_norm = nn.RMSNorm(self.width, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.width, eps=config.rms_norm_eps)

    def keys_values(self, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys (normed, rotated) and values, each [B, S, Hk, D]."""
        shape = (*hidden.shape[:-1], -1, self.width)
        key = _rotate(self.k_norm(self.k_proj(hidden).view(shape)), rope)
        return key, self.v_proj(hidden).view(shape)

    def forward(self, hidden: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        query = _rotate(self.q_norm(self.q_proj(hidden).view(*hidden.shape[:-1], -1, self.width)), rope)
        return self.o_proj(attend(query, *self.keys_values(hidden, rope)).flatten(-2))


class DrafterLayer(nn.Module):
    """Pre-norm attention and SwiGLU MLP.

    Attributes:
        compiled: passes that have a gradient are compiled; walks and decoding, whose shapes are many, are not.
    """

    def __init__(self, config: Any, index: int):
        super().__init__()
        self.compiled = False
        slides = (config.layer_types or ())[index] == SLIDING
        self.window = config.sliding_window if slides else None
        self.causal = slides if config.is_causal is None else config.is_causal
        self.self_attn = DrafterAttention(config)
        self.mlp = Qwen3MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        run = _compiled(_run) if self.compiled and torch.is_grad_enabled() else _run
        return run(self, hidden, rope, attend)


def _run(layer: DrafterLayer, hidden: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    hidden = hidden + layer.self_attn(layer.input_layernorm(hidden), rope, attend)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


@cache
def _compiled(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(run, dynamic=True)


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of x [B, S, H, D] with cos, sin [B, S, D]."""
    cos, sin = (part[:, :, None].to(x.dtype) for part in rope)
    return x * cos + rotate_half(x) * sin
