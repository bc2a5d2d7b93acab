"""The whole frozen verifier: its head, and a body with taps, states and steps over a cache."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from drafter.attention import KVCache, LayerShape, Replay, choose_kernel, choose_replay
from drafter.verifier.attention import ATTENTION, over
from drafter.verifier.compiling import check_compile, choose_tiles, tile
from drafter.verifier.head import VerifierHead
from drafter.verifier.loading import load_model
from drafter.verifier.recurrent import RECURRENT, RecurrentCache, remembering
from drafter.verifier.selfcheck import why_not_decoded
from drafter.verifier.tiled import TiledPass

_outputs: ContextVar[dict[int, list[Tensor]] | None] = ContextVar(
    "outputs of the layers that a pass taps", default=None
)

STACKS = ("layers", "h", "blocks")  # what families call their list of decoder layers


class Verifier(VerifierHead):
    """A frozen causal language model that has checked itself: see `drafter.verifier.selfcheck`.

    Args:
        model: a transformers causal LM with a list of decoder layers.
        tokenizer: its tokenizer; None where only token ids are used.
        attention: `auto`, `sdpa`, `flash_attn` or `flash_cpu`, for decoding.
        compile: `auto`, `on` or `off`: whether the passes of decoding become CUDA graphs, or tiles on a CPU, the
            drafter's too.
    Attributes:
        tiled: its body in tiles, once something was decoded; None where it runs as it is.
        undecodable: why it can't be decoded here, though its taps can be read and a drafter be trained; None: it can.
    Raises:
        ValueError: its taps can't be read, or its logits are not made as its head makes them.
    """

    def __init__(self, model: Any, tokenizer: Any = None, attention: str = "auto", compile: str = "auto"):
        super().__init__(model, tokenizer)
        names = [name for name in STACKS if isinstance(getattr(self._body, name, None), nn.ModuleList)]
        if not names:
            raise ValueError(f"verifier: {type(model).__name__} has no list of decoder layers to tap; choose another")
        self._stack = names[0]
        self.num_layers = len(self.layers)
        self._hooked: set[int] = set()
        self._uses = ATTENTION
        self.kernel = choose_kernel(attention, self.device, self.dtype)
        reason = "its positions depend on the longest row" if self.rope_bound else None
        reason = "some of its layers keep a state" if self.recurrent else reason
        check_compile(compile, self.device, self.dtype)
        self.compile = compile
        self.replayed = Replay.OFF if self.device.type == "cpu" else choose_replay(compile, self.device, reason)
        model.set_attn_implementation(ATTENTION)
        self.shapes: tuple[LayerShape, ...] = ()  # of what a cache keeps
        self.undecodable = None
        self.tiles = False
        self._tiled_of: tuple[tuple[int, int], ...] = ()
        self.tiled: TiledPass | None = None
        self.undecodable = why_not_decoded(self)
        self.tiles = not self.undecodable and choose_tiles(compile, self)

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
        return getattr(self._body, self._stack)

    @property
    def recurrent(self) -> bool:
        """Whether some of its layers keep a state, which is replayed and not rewound (`drafter.verifier.recurrent`)."""
        return bool(RECURRENT & set(getattr(self.config, "layer_types", None) or ()))

    def fingerprint(self) -> str:
        """A short hash of a sample of each weight, rounded to bfloat16: the same in every dtype."""
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            flat = weight.detach().flatten()
            sample = torch.cat([flat[:64], flat[-64:]]).to(torch.bfloat16).cpu().view(torch.uint8)
            digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
        return digest.hexdigest()[:16]

    def new_cache(self, batch: int, tokens: int, replayed: int = Replay.OFF, spare: int = 0) -> KVCache:
        """An empty cache for `batch` rows of up to `tokens` tokens; `replayed` where its passes are many alike.

        Args:
            spare: slots more, for drafts that stand behind the last of these tokens and are never kept.
        Raises:
            ValueError: the model can't be decoded here, or not that far.
        """
        if self.undecodable:
            raise ValueError(f"verifier: {self.undecodable}; it can't be decoded here, only its taps can be read")
        self._check_length(tokens)
        if self.tiles:
            self._tile()
        size = (self.shapes, batch, tokens + spare, self.dtype, self.device, self.kernel)
        return RecurrentCache(self.model.config, self.step, *size) if self.recurrent else KVCache(*size, replayed)

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
        short._modules[self._stack] = self.layers[: max(tap_layers) + 1]
        self._check_length(ids.shape[1])
        return self.heard(tap_layers, short, input_ids=ids, use_cache=False)[1]

    @torch.inference_mode()
    def states(self, ids: Tensor, tap_layers: Sequence[int]) -> Tensor:
        """`taps` of `ids` [B, S] with the normed hidden states behind the last layer beside them, [B, S, T*D + D].

        Those of position i, under the head, give the verifier's law of token i + 1; the whole body runs.
        """
        self._check_length(ids.shape[1])
        out, taps = self.heard(tap_layers, self._body, input_ids=ids, use_cache=False)
        return torch.cat([taps, out.last_hidden_state], dim=-1)

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: KVCache, tap_layers: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
        """Run `ids` [B, Q] behind what `cache` has committed, in a row or as the tree it was told of; commits nothing.

        Returns:
            normed hidden states [B, Q, D], ready for the head, and the taps [B, Q, T*D] (None without tap layers);
            from a cache that keeps graphs, until the next step.
        """
        if self.tiled is not None:
            return self.tiled(ids, cache, tap_layers)
        last = self.context_length - 1  # drafts behind it are never kept, but must not ask for what there is not

        def run(ids: Tensor) -> tuple[Tensor, Tensor | None]:
            positions = cache.positions(ids.shape[1]).clamp(max=last)
            with over(cache), remembering(self._body, cache, ids) as how:
                out, taps = self.heard(tap_layers, self._body, input_ids=ids, position_ids=positions, **how)
            return out.last_hidden_state, taps if tap_layers else None

        hidden, taps = cache.replay(("verify", tuple(tap_layers)), run, ids)
        assert hidden is not None
        return hidden, taps

    def _tile(self) -> None:
        """Lay out the matrices of decoding, again where weights are not what they were."""
        weights = tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in self.model.parameters())
        if weights != self._tiled_of:
            self._tiled_of, self.tiled = weights, None
            self.output = replace(self.output, tiled=None)
            self.tiled = tile(self, self.compile == "on")
            if self.tiled is not None:
                self.output = self.output.tile()

    @contextmanager
    def plain_attention(self) -> Iterator[Any]:
        """The model with transformers' own attention, for its `generate`."""
        self.model.set_attn_implementation(self._own_attention)
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(self._uses)

    def give_back_attention(self) -> None:
        """Read taps through transformers' own attention from now on; nothing can be decoded then."""
        self._uses = self._own_attention
        self.model.set_attn_implementation(self._uses)

    @property
    def _own_attention(self) -> str:
        return "sdpa" if self.model._supports_sdpa else "eager"

    def _check_length(self, length: int) -> None:
        if self.rope_bound and length > self.rope_bound:
            raise ValueError(
                f"verifier: in rows of more than {self.rope_bound} tokens all positions depend on the longest row "
                f"({length} here); use shorter rows"
            )

    def heard(self, tap_layers: Sequence[int], run: Any, **inputs: Any) -> tuple[Any, Tensor]:
        """What a pass returns, and what the layers asked for put out in it, side by side, [B, S, T*D].

        By hooks that stay, and in a context: what runs in other threads meanwhile hears of nothing.
        """
        for layer in set(tap_layers) - self._hooked:
            self.layers[layer].register_forward_hook(partial(_keep, layer))
            self._hooked.add(layer)
        outputs: dict[int, list[Tensor]] = {layer: [] for layer in tap_layers}
        token = _outputs.set(outputs)
        try:
            made = run(**inputs)
        finally:
            _outputs.reset(token)
        taps = [outputs[layer][-1] for layer in tap_layers]
        return made, torch.cat(taps, dim=-1) if taps else torch.empty(0)


def _keep(layer: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
    """A hook: keep what a layer puts out, where it is asked for."""
    outputs = _outputs.get()
    if outputs is not None and layer in outputs:
        outputs[layer].append(output[0] if isinstance(output, tuple) else output)
