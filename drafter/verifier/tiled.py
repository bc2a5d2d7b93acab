"""The passes of decoding over matrices in tiles, for layers of a kind that is known: bfloat16 on CPUs.

A pass over a few tokens reads all weights and does little with them: how they lie in memory, and what the host does
between them, decide what it takes. The layers here do what transformers' do, in the same order and rounding: one
product for queries, keys and values, one for gate and up, and `between` them what it takes of torch's operations, or a
few kernels in C.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from drafter.attention import KVCache
from drafter.machine.tiling import Tiled
from drafter.verifier.between import Between, Rope, choose_between

if TYPE_CHECKING:
    from drafter.verifier.body import Verifier

KNOWN = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
Product = Callable[[Sequence[nn.Linear]], Callable[[Tensor], Tensor]]


class TiledLayer:
    """A decoder layer: pre-norm attention over a cache, gated MLP.

    Args:
        product: makes one product of several linear maps of the same input.
        between: what lies between them.
    """

    def __init__(self, layer: Any, product: Product, between: Between):
        self.layer, self.attention, self.between = layer, layer.self_attn, between
        attention, mlp = layer.self_attn, layer.mlp
        self.width: int = attention.head_dim
        self.heads, self.kv_heads = (one.out_features // self.width for one in (attention.q_proj, attention.k_proj))
        self.queries_keys_values = product([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out, self.down = product([attention.o_proj]), product([mlp.down_proj])
        self.gate_up = product([mlp.gate_proj, mlp.up_proj])
        self.norms = [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]  # Qwen 3
        own = "sliding_window"  # of Llama there is none, of Mistral it stands in the config
        self.windows = vars(attention) if own in vars(attention) else vars(attention.config)

    @property
    def window(self) -> int | None:
        return None if type(self.layer) is LlamaDecoderLayer else self.windows["sliding_window"]

    def __call__(self, hidden: Tensor, rope: Rope, cache: KVCache) -> Tensor:
        """[B, Q, D] -> [B, Q, D], keys and values written behind the cache's committed slots."""
        batch, count, _ = hidden.shape
        between, layer = self.between, self.layer
        _, normed = between.add_norm(hidden, None, layer.input_layernorm)
        made = self.queries_keys_values(normed).view(batch, count, self.heads + 2 * self.kv_heads, self.width)
        query, key, value = between.rotate(made, rope, (self.heads, self.kv_heads), self.norms)
        index, scale = self.attention.layer_idx, self.attention.scaling
        attended = cache.attend(index, query, key, value, causal=True, scale=scale, window=self.window)
        hidden, normed = between.add_norm(hidden, self.out(attended.flatten(2)), layer.post_attention_layernorm)
        return hidden + self.down(between.gate(self.gate_up(normed), layer.mlp.act_fn))


class TiledPass:
    """The body of a verifier, as `Verifier.step` runs it."""

    def __init__(self, verifier: "Verifier", product: Product = Tiled.of):
        self.body = verifier._body
        self.between = choose_between(verifier.device, verifier.dtype)
        self.layers = [TiledLayer(layer, product, self.between) for layer in verifier.layers]

    def begin(self, ids: Tensor, cache: KVCache) -> tuple[Tensor, Rope]:
        """Embeddings of `ids` [B, Q], and their rotation."""
        hidden = self.body.get_input_embeddings()(ids)
        return hidden, self.rope(hidden, cache)

    def rope(self, hidden: Tensor, cache: KVCache) -> Rope:
        """The rotation of new tokens [B, Q, D]."""
        cos, sin = self.body.rotary_emb(hidden, cache.positions(hidden.shape[1]))  # [B, Q, D]
        first, second = sin.chunk(2, dim=-1)
        return cos[:, :, None], torch.cat([-first, second], dim=-1)[:, :, None]

    def __call__(self, ids: Tensor, cache: KVCache, tap_layers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Normed hidden states [B, Q, D] and the taps [B, Q, T*D]; see `Verifier.step`."""
        return self.run(self.body.get_input_embeddings()(ids), cache, tap_layers)

    def run(self, hidden: Tensor, cache: KVCache, tap_layers: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
        """The same of input embeddings [B, Q, D]."""
        rope, heard = self.rope(hidden, cache), {}
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, rope, cache)
            if index in tap_layers:
                heard[index] = hidden
        taps = torch.cat([heard[index] for index in tap_layers], dim=-1) if tap_layers else None
        return self.between.add_norm(hidden, None, self.body.norm)[1], taps
