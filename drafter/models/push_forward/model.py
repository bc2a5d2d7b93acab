"""The push-forward model of K-Forcing (arXiv:2606.10820): context and uniform noise -> the next tokens, jointly.

A causal language model whose input may also be noise: one uniform number per token to come, each at that token's
position, under ordinary causal attention and the model's own head. All randomness is noise's; a token is an argmax.
"""

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from drafter.attention import KVCache, LayerShape, Replay
from drafter.layouts import architectures
from drafter.models.base import Outline
from drafter.models.push_forward.noise import NoiseEncoder
from drafter.models.push_forward.packed import Context, Groups, group_positions
from drafter.models.storage import find, read_config
from drafter.verifier import Verifier
from drafter.verifier.attention import ATTENTION, over
from drafter.verifier.loading import FOREIGN, reason
from drafter.verifier.output import OutputHead, output_of
from drafter.verifier.tiled import TiledPass


class PushForwardConfig(PreTrainedConfig):
    """A backbone and how many tokens it gives at a time.

    Args:
        backbone: the config of a causal language model of transformers, as a dictionary.
        tokens_per_pass: how many tokens a pass was trained to give; it gives any smaller number, too.
        temperatures: lowest and highest that it was trained at.
        stop_ids: tokens that end a text.
        noise_periods: see `NoiseEncoder`.
    """

    model_type = "push_forward"
    backbone: dict | None = None
    tokens_per_pass: int = 1
    temperatures: tuple[float, float] | list = (1.0, 1.0)
    stop_ids: tuple[int, ...] | list = ()
    noise_periods: float = 1.0


class PushForwardModel(PreTrainedModel):
    """A backbone with a noise encoder; every weight of both is trained.

    Shapes: G tokens of a pass, N positions of a row, K slots of a group.
    """

    config_class = PushForwardConfig
    config: PushForwardConfig
    base_model_prefix = ""
    main_input_name = "ids"
    _supports_sdpa = True
    input_modalities = ("text",)

    def __init__(self, config: PushForwardConfig):
        super().__init__(config)
        self.tiled: TiledPass | None = None  # of a model made for decoding alone, see `tiles`
        backbone = AutoConfig.for_model(**(config.backbone or {}))
        self.backbone = AutoModelForCausalLM.from_config(backbone)
        self.backbone.set_attn_implementation(ATTENTION)
        self.noise = NoiseEncoder(self.body.get_input_embeddings().weight.shape[1], config.noise_periods)
        self.post_init()

    @classmethod
    def from_verifier(
        cls,
        verifier: Verifier,
        tokens_per_pass: int = 1,
        temperatures: tuple[float, float] = (1.0, 1.0),
        noise_periods: float = 1.0,
    ) -> "PushForwardModel":
        """The verifier's own weights, to be distilled from it; the noise encoder is random."""
        config = PushForwardConfig(
            backbone=verifier.model.config.to_dict(),
            tokens_per_pass=tokens_per_pass,
            temperatures=list(temperatures),
            stop_ids=list(verifier.stop_ids),
            noise_periods=noise_periods,
        )
        model = cls(config)
        model.backbone.load_state_dict(verifier.model.state_dict())
        return model.to(verifier.device)

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether a `config.json` is one of a push-forward model."""
        return cls.__name__ in architectures(config)

    @classmethod
    def outline(cls, source: str) -> Outline:
        """What its config says."""
        config = read_config(find(source))
        if not (isinstance(config.get("backbone"), dict) and isinstance(config.get("tokens_per_pass"), int)):
            raise ValueError(f"drafter={source!r}: its config.json names no backbone and tokens_per_pass; export again")
        made_for = {"vocab_size": config["backbone"]["vocab_size"]} if "vocab_size" in config["backbone"] else {}
        return Outline(config["tokens_per_pass"], config["tokens_per_pass"], made_for=made_for)

    @classmethod
    def load(cls, source: str, dtype: torch.dtype | None = None, device: Any = "cpu") -> "PushForwardModel":
        """Read a directory or hub id, strictly.

        Raises:
            ValueError: it holds none, or not all of its weights.
        """
        where = find(source)
        cls.outline(source)
        try:
            telling = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # what is told is refused below
            model, told = cls.from_pretrained(where, dtype=dtype, **telling)
        except FOREIGN as error:
            raise ValueError(f"drafter={source!r}: can't be read ({reason(error)})") from None
        wrong = sorted(map(str, (*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"])))
        if wrong:
            raise ValueError(f"drafter={source!r}: {wrong[0]} does not fit its config; export again")
        wanted = dtype or model.config.dtype or model.noise.project.weight.dtype
        for weight in model.parameters():  # a backbone's config may name another dtype than the whole is stored in
            weight.data = weight.data.to(wanted)
        return model.to(device).eval()

    @classmethod
    def beside(cls, source: str, verifier: Verifier) -> "PushForwardModel":
        """Load in the dtype and on the device of a verifier."""
        model = cls.load(source, verifier.dtype, verifier.device)
        model.check_verifier(verifier)
        return model

    def widened(self, tokens_per_pass: int) -> "PushForwardModel":
        """A copy with weights of its own, to be trained to give another number of tokens."""
        made = type(self)(copy.deepcopy(self.config))
        made.load_state_dict(self.state_dict())
        made.config.tokens_per_pass = tokens_per_pass
        return made.to(self.device)

    @property
    def body(self) -> Any:
        return self.backbone.get_decoder()

    @property
    def head(self) -> Tensor:
        """Weight of the output head, [V, D]."""
        return self.backbone.get_output_embeddings().weight

    @property
    def tokens_per_pass(self) -> int:
        return self.config.tokens_per_pass

    @property
    def draft_length(self) -> int:
        return self.tokens_per_pass

    @property
    def longest(self) -> int:
        return self.tokens_per_pass

    @property
    def context_length(self) -> int:
        return self.backbone.config.get_text_config().max_position_embeddings

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: those of its teacher."""
        return tuple(self.config.stop_ids)

    def check_verifier(self, verifier: Verifier) -> None:
        """Raise a ValueError unless its tokens are the verifier's."""
        ours, theirs = len(self.head), len(verifier.head)
        if ours != theirs:
            raise ValueError(f"drafter: has a vocabulary of {ours} tokens, the verifier of {theirs}; load its teacher")

    def check_temperature(self, temperature: float) -> None:
        """Raise a ValueError unless it was trained at that temperature."""
        low, high = self.config.temperatures
        if not low <= temperature <= high:
            trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            raise ValueError(f"temperature={temperature}: the model was trained at {trained}; choose that")

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of ids [...]: [..., D]."""
        return self.body.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head over normed hidden states [..., D]: [..., V]."""
        return self.output(hidden)

    @cached_property
    def output(self) -> OutputHead:
        """The head, as the model itself makes logits."""
        return output_of(self.backbone)  # asked of the model itself, so not anew for every pass

    def read(self, ids: Tensor) -> Context:
        """A row's own tokens [B, N], in one pass."""
        context = Context()
        with over(context):
            self.body(inputs_embeds=self.embed(ids), position_ids=_positions(ids), use_cache=False)
        return context

    def fill(self, context: Context, slots: Tensor) -> Tensor:
        """All groups of slots behind a row, in one pass.

        Args:
            slots: their input embeddings, [B, N, K, D].
        Returns:
            normed hidden states, [B, N, K, D].
        """
        count = slots.shape[2]
        positions = group_positions(context.length, count, slots.device)
        with over(Groups(context, count)):
            out = self.body(inputs_embeds=slots.flatten(1, 2), position_ids=positions, use_cache=False)
        return out.last_hidden_state.unflatten(1, (-1, count))

    def forward(self, ids: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """The next G tokens behind every position of rows, each from noise of its own: the packed single pass.

        Args:
            ids: [B, N].
            noise: in [0, 1), [B, N, G].
            temperature: [B].
        Returns:
            normed hidden states whose logits' argmax are the tokens, [B, N, G, D].
        """
        return self.fill(self.read(ids), self.noise(noise, temperature[:, None, None]))

    def forward_behind(self, context: Context, tokens: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """The G tokens behind `tokens` [B, N, G'], which stand behind every position: the packed double pass.

        Args:
            noise: in [0, 1), [B, N, G].
        Returns:
            normed hidden states, [B, N, G, D].
        """
        slots = torch.cat([self.embed(tokens), self.noise(noise, temperature[:, None, None])], dim=2)
        return self.fill(context, slots)[:, :, tokens.shape[2] :]

    def new_cache(self, batch: int, capacity: int, kernel: str = "sdpa", replayed: int = Replay.OFF) -> KVCache:
        """An empty cache for `batch` rows of up to `capacity` tokens, the noise behind them included."""
        text, attention = self.backbone.config.get_text_config(), self.body.layers[0].self_attn
        heads, width = text.num_key_value_heads, attention.head_dim
        shapes = [LayerShape(heads, width, width)] * len(self.body.layers)
        return KVCache(shapes, batch, capacity, self.dtype, self.device, kernel, replayed)

    def extend(self, ids: Tensor, cache: KVCache) -> None:
        """Write keys and values of new tokens [B, Q] behind the cache; commit nothing."""
        nothing = torch.zeros(len(ids), 0, device=ids.device)
        self.push(ids, nothing, nothing.new_ones(len(ids)), cache)

    def push(self, ids: Tensor, noise: Tensor, temperature: Tensor, cache: KVCache) -> Tensor:
        """New tokens behind the cache and the G tokens behind those, in one pass; commits nothing.

        Args:
            ids: [B, Q]; their keys and values may be committed afterwards, those of noise never.
            noise: in [0, 1), [B, G].
            temperature: [B].
        Returns:
            normed hidden states of the G tokens, [B, G, D].
        """

        def run(padded: Tensor, noise: Tensor, temperature: Tensor) -> tuple[Tensor]:
            tokens = self.embed(padded[:, : ids.shape[1]])
            inputs = torch.cat([tokens, self.noise(noise, temperature[:, None])], dim=1)  # [B, Q + G, D]
            if self.tiled is not None:
                return (self.tiled.run(inputs, cache)[0][:, ids.shape[1] :],)
            positions = cache.positions(inputs.shape[1])
            with over(cache):
                out = self.body(inputs_embeds=inputs, position_ids=positions, use_cache=False)
            return (out.last_hidden_state[:, ids.shape[1] :],)

        padded = torch.nn.functional.pad(ids, (0, noise.shape[1]))  # [B, Q + G]: as wide as the pass
        (hidden,) = cache.replay(("push", self.head.data_ptr()), run, padded, noise, temperature)
        assert hidden is not None
        return hidden


AutoConfig.register(PushForwardConfig.model_type, PushForwardConfig)  # for the tokenizer beside a saved model


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device)[None]
