"""The whole frozen verifier: its head, and a body with taps, states and steps over a cache."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from drafter.attention import KVCache, choose_kernel, choose_replay
from drafter.verifier.attention import ATTENTION, over
from drafter.verifier.head import VerifierHead
from drafter.verifier.loading import load_model


def _reads_lengths(config: Any) -> str | None:
    """Why a model's pass looks at positions on the host, if it does."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
    kinds = {one.get("rope_type") for one in each} & {"dynamic", "longrope"}
    return f"rope_type {kinds.pop()} depends on the length" if kinds else None


class Verifier(VerifierHead):
    """A frozen causal language model.

    Args:
        model: a transformers causal LM whose state can be rewound (full or sliding attention in every layer).
        tokenizer: its tokenizer; None where only token ids are used.
        attention: `auto`, `sdpa` or `flash_attn`, for decoding.
        compile: `auto`, `on` or `off`: whether the passes of decoding become CUDA graphs, the drafter's too.
    Raises:
        ValueError: the model keeps a recurrent state, soft-caps its attention, or has no list of layers.
    """

    def __init__(self, model: Any, tokenizer: Any = None, attention: str = "auto", compile: str = "auto"):
        text = model.config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        if not kinds <= {"full_attention", "sliding_attention"}:
            raise ValueError(
                f"verifier: layers of type {sorted(kinds)} keep a state that can't be rewound; "
                "choose a model with attention in every layer"
            )
        if getattr(text, "attn_logit_softcapping", None):
            raise ValueError(
                "verifier: soft-capped attention (attn_logit_softcapping) is not supported; choose another"
            )
        body = model.get_decoder()
        if not hasattr(body, "layers"):
            raise ValueError(f"verifier: {type(model).__name__} has no list of decoder layers to tap; choose another")
        super().__init__(model, tokenizer)
        model.set_attn_implementation(ATTENTION)
        self.kernel = choose_kernel(attention, self.device, self.dtype)
        self.replayed = choose_replay(compile, self.device, _reads_lengths(text))
        self._tapped: dict[int, Tensor] = {}
        self._hooks: dict[int, Any] = {}

    @classmethod
    def load(
        cls,
        source: str,
        dtype: torch.dtype | None = torch.float32,
        device: str = "cpu",
        attention: str = "auto",
        compile: str = "auto",
    ) -> "Verifier":
        """Load a hub id, a directory, a GGUF file or a packaged name (`smollm2`).

        Raises:
            ValueError: the source can't be found or is no causal LM.
        """
        return cls(*load_model(source, dtype, device), attention, compile)

    @property
    def layers(self) -> nn.ModuleList:
        return self._body.layers

    def fingerprint(self) -> str:
        """A short hash of a sample of each weight, rounded to bfloat16: the same in every dtype."""
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            flat = weight.detach().flatten()
            sample = torch.cat([flat[:64], flat[-64:]]).to(torch.bfloat16).cpu().view(torch.uint8)
            digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
        return digest.hexdigest()[:16]

    def new_cache(self, batch: int, capacity: int, replayed: bool = False) -> KVCache:
        """An empty cache for `batch` rows of up to `capacity` tokens; `replayed` where its passes are many alike."""
        attention = self._body.layers[0].self_attn
        heads = self.config.num_key_value_heads
        width = attention.head_dim
        shape = (self.num_layers, batch, capacity, heads, width)
        return KVCache(*shape, self.dtype, self.device, self.kernel, replayed)

    @torch.inference_mode()
    def taps(self, ids: Tensor, tap_layers: Sequence[int]) -> Tensor:
        """Outputs of the tapped layers for whole rows, right-padded; the body stops after the highest.

        Args:
            ids: [B, S].
        Returns:
            [B, S, T*D], taps side by side in the order given.
        """
        short = copy.copy(self._body)
        short._modules = dict(self._body._modules)
        short._modules["layers"] = self._body.layers[: max(tap_layers) + 1]
        self._listen(tap_layers)
        short(input_ids=ids, use_cache=False)
        return self._collect(tap_layers)

    @torch.inference_mode()
    def states(self, ids: Tensor, tap_layers: Sequence[int]) -> Tensor:
        """`taps` of `ids` [B, S] with the normed hidden states behind the last layer beside them, [B, S, T*D + D].

        Those of position i, under the head, give the verifier's law of token i + 1; the whole body runs.
        """
        self._listen(tap_layers)
        final = self._body(input_ids=ids, use_cache=False).last_hidden_state  # [B, S, D]
        return torch.cat([self._collect(tap_layers), final], dim=-1)

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: KVCache, tap_layers: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
        """Run `ids` [B, Q] behind what `cache` has committed, in a row or as the tree it was told of; commits nothing.

        Returns:
            normed hidden states [B, Q, D], ready for the head, and the taps [B, Q, T*D] (None without tap layers);
            from a cache that keeps graphs, until the next step.
        """
        self._listen(tap_layers)

        def run(ids: Tensor) -> tuple[Tensor, Tensor | None]:
            with over(cache):
                out = self._body(input_ids=ids, position_ids=cache.positions(ids.shape[1]), use_cache=False)
            return out.last_hidden_state, self._collect(tap_layers) if tap_layers else None

        hidden, taps = cache.replay(("verify", tuple(tap_layers)), run, ids)
        assert hidden is not None
        return hidden, taps

    @contextmanager
    def plain_attention(self) -> Iterator[Any]:
        """The model with transformers' own attention, for its `generate`."""
        self._listen(())
        self.model.set_attn_implementation("sdpa")
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(ATTENTION)

    def _listen(self, tap_layers: Sequence[int]) -> None:
        """Keep hooks on exactly the layers asked for."""
        for layer in set(self._hooks) - set(tap_layers):
            self._hooks.pop(layer).remove()
        for layer in set(tap_layers) - set(self._hooks):
            self._hooks[layer] = self._body.layers[layer].register_forward_hook(self._keeper(layer))

    def _keeper(self, layer: int) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            self._tapped[layer] = output[0] if isinstance(output, tuple) else output

        return keep

    def _collect(self, tap_layers: Sequence[int]) -> Tensor:
        taps = torch.cat([self._tapped[layer] for layer in tap_layers], dim=-1)  # [B, S, T*D]
        self._tapped.clear()
        return taps
