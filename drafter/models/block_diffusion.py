"""The block-diffusion drafter of DFlash (arXiv:2602.06036): one bidirectional pass fills all masked slots of a block.

Context reaches it by KV injection: taps of the verifier, fused by one projection, become extra keys and values of every
layer. It has no embedding and no head; both are the verifier's. The same class trains, decodes and is exported.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from drafter.attention import KVCache, LayerShape, Replay
from drafter.attention.over_blocks import OverBlocks, over_blocks
from drafter.blocks import document_positions, slot_positions
from drafter.layouts import CANONICAL, SHAPES, find_layout
from drafter.layouts.base import DEEPEST
from drafter.models import storage
from drafter.models.base import Outline
from drafter.models.block_config import BlockDiffusionConfig
from drafter.models.layers import DrafterLayer
from drafter.verifier import Verifier, VerifierHead


class BlockDiffusionDrafter(PreTrainedModel):
    """The drafter.

    Attributes:
        vocabulary: ids that it may propose, ascending [V'], or None for the verifier's whole vocabulary
            (FR-Spec, arXiv:2502.14856); verification always stays on the whole vocabulary.
        attention: kernel of `forward`: `auto`, or one of `drafter.attention.over_blocks`.
    """

    config_class = BlockDiffusionConfig
    config: BlockDiffusionConfig
    vocabulary: Tensor | None
    base_model_prefix = ""
    main_input_name = "block"
    _no_split_modules = ["DrafterLayer"]  # noqa: RUF012 (transformers' own name and type)
    input_modalities = ("text",)

    def __init__(self, config: BlockDiffusionConfig):
        super().__init__(config)
        taps = len(self.tap_layers)
        self.fc = nn.Linear(taps * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.layers: Any = nn.ModuleList(DrafterLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Qwen3RotaryEmbedding(config)
        self.attention = "auto"
        self.register_buffer("vocabulary", None, persistent=False)  # moves with the module, stands in no state_dict
        self.post_init()

    @classmethod
    def shapes(cls, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Every tensor of a drafter with these facts (see `drafter.layouts`), by name: those of one without memory.

        Raises:
            ValueError: the depth is no drafter's.
        """
        depth = facts["num_hidden_layers"]
        if not 1 <= depth <= DEEPEST:
            raise ValueError(f"num_hidden_layers={depth}: must lie between 1 and {DEEPEST}")
        config = BlockDiffusionConfig(
            **{fact: facts[fact] for fact in SHAPES if fact != "target_layer_ids"},
            attention_bias=bool(facts.get("attention_bias")),
            dflash_config={"target_layer_ids": facts["target_layer_ids"]},
        )
        with torch.device("meta"):
            return {name: tuple(weight.shape) for name, weight in cls(config).state_dict().items()}

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, dtype: torch.dtype | None = None, device: Any = "cpu"
    ) -> "BlockDiffusionDrafter":
        """Load a drafter in any layout, its draft vocabulary included, from a directory or a hub id.

        Args:
            dtype: of the weights; None for the stored one.
        Raises:
            ValueError: files, fields or tensors are missing, unknown or of the wrong shape.
        """
        return storage.load(cls, source, dtype, device)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Save in the canonical layout; a draft vocabulary goes into a file of its own, which engines ignore."""
        facts = storage.facts_of(self.config, self.dtype)
        weights = self.state_dict()
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        directory = Path(save_directory)
        storage.save_drafter(directory, CANONICAL, facts, weights.__getitem__, shapes, vocabulary=self.vocabulary)

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether a `config.json` is one of a DFlash drafter, in any layout."""
        return find_layout(config) is not None

    @classmethod
    def outline(cls, source: str) -> Outline:
        """What its config says, fields checked."""
        facts = storage.Stored(storage.find(source)).facts
        made_for = {name: facts[name] for name in ("hidden_size", "num_target_layers", "vocab_size") if facts.get(name)}
        return Outline(facts["block_size"] - 1, facts["block_size"] - 1, trees=True, made_for=made_for)

    @classmethod
    def beside(cls, source: str, verifier: Verifier) -> "BlockDiffusionDrafter":
        """Load in the dtype and on the device of a verifier."""
        drafter = cls.from_pretrained(source, dtype=verifier.dtype, device=verifier.device)
        drafter.check_verifier(verifier)
        return drafter

    @property
    def block_size(self) -> int:
        return self.config.block_size

    @property
    def draft_length(self) -> int:
        """Tokens proposed per cycle unless fewer are asked for."""
        return self.block_size - 1

    @property
    def longest(self) -> int:
        """Tokens that can be proposed at most."""
        return self.block_size - 1

    @property
    def hidden_size(self) -> int:
        """Width of the states that its laws come from."""
        return int(self.config.hidden_size)

    @property
    def context_length(self) -> int | None:
        """As many tokens as the verifier reads."""
        return None

    @property
    def tap_layers(self) -> Sequence[int]:
        return (self.config.dflash_config or {})["target_layer_ids"]

    @property
    def mask_token_id(self) -> int:
        return (self.config.dflash_config or {})["mask_token_id"]

    def check_verifier(self, verifier: VerifierHead) -> None:
        """Raise a ValueError unless this drafter fits the verifier's width, depth, vocabulary and head."""
        ours = (self.config.hidden_size, self.config.num_target_layers, self.config.vocab_size)
        theirs = (verifier.config.hidden_size, verifier.num_layers, verifier.head.shape[0])
        if any(our not in (0, their) for our, their in zip(ours, theirs, strict=True)):  # 0: not stated
            raise ValueError(
                f"drafter: made for a verifier of width, layers, vocabulary {ours}, not {theirs}; load that verifier"
            )
        cap = self.config.final_logit_softcapping
        if cap is not None and cap != verifier.output.softcap:
            raise ValueError(
                f"drafter: final_logit_softcapping={cap:g}: made for a head that is capped so, the verifier's has "
                f"{verifier.output.softcap}; load that verifier"
            )

    def context(self, taps: Tensor) -> Tensor:
        """Fuse taps [B, S, T*D] into what all layers take their extra keys and values from, [B, S, D]."""
        return self.hidden_norm(self.fc(taps))

    def forward(self, block: Tensor, taps: Tensor, anchors: Tensor, documents: Tensor | None = None) -> Tensor:
        """Fill many blocks of a row at once (training, walk).

        Args:
            block: embeddings of the slots, [B, A, K, D].
            taps: of the whole row, [B, S, T*D].
            anchors: [B, A].
            documents: [B, S] or None, see `block_mask`.
        Returns:
            normed hidden states, [B, A, K, D].
        """
        batch, count, size, width = block.shape
        attention = over_blocks(self.attention, anchors, taps.shape[1], size, documents, self.config.head_dim)
        context = self.context(taps)
        hidden = block.reshape(batch, count * size, width).to(context.dtype)
        if documents is None:
            places, own = torch.arange(taps.shape[1], device=taps.device)[None], anchors
        else:
            places = document_positions(documents)  # [B, S]
            own = places.gather(1, anchors)
        context_rope = self.rotary_emb(context, places)
        rope = self.rotary_emb(context, slot_positions(own, size).flatten(1))
        for layer in self.layers:
            keys, values = layer.self_attn.keys_values(context, context_rope)
            hidden = layer(hidden, rope, partial(_attend_context, attention, layer, keys, values))
        return self.norm(hidden).view(batch, count, size, width)

    def new_cache(self, batch: int, capacity: int, kernel: str = "sdpa", replayed: int = Replay.OFF) -> KVCache:
        """An empty cache for the context keys and values of `batch` rows; see `KVCache`."""
        config = self.config
        shape = LayerShape(config.num_key_value_heads or 1, config.head_dim, config.head_dim)
        return KVCache([shape] * config.num_hidden_layers, batch, capacity, self.dtype, self.device, kernel, replayed)

    def extend(self, taps: Tensor, cache: KVCache) -> None:
        """Write the keys and values of new taps [B, Q, T*D] behind the cache's committed slots; commit nothing."""

        def run(taps: Tensor) -> tuple[()]:
            context = self.context(taps)
            rope = self.rotary_emb(context, cache.positions(taps.shape[1]))
            for index, layer in enumerate(self.layers):
                cache.write(index, *layer.self_attn.keys_values(context, rope))
            return ()

        cache.replay(("extend", id(self)), run, taps.to(self.dtype))

    def draft(self, block: Tensor, cache: KVCache) -> Tensor:
        """Fill one block per row behind the cached context.

        Args:
            block: embeddings of the anchor and the mask tokens, [B, K', D], K' at most the block size.
        Returns:
            normed hidden states, [B, K', D]. The block's own keys and values are not committed.
        """

        def run(hidden: Tensor) -> tuple[Tensor]:
            rope = self.rotary_emb(hidden, cache.positions(block.shape[1]))
            for index, layer in enumerate(self.layers):
                kind = {"causal": layer.causal, "window": layer.window, "scale": layer.self_attn.scale}
                hidden = layer(hidden, rope, partial(cache.attend, index, **kind))
            return (self.norm(hidden),)

        (hidden,) = cache.replay(("draft", id(self)), run, block.to(self.dtype))
        assert hidden is not None
        return hidden


def _attend_context(
    attention: OverBlocks, layer: Any, keys: Tensor, values: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    kind = {"causal": layer.causal, "window": layer.window, "scale": layer.self_attn.scale}
    return attention(query, key, value, keys, values, **kind)
