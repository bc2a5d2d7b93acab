"""The push-forward model of K-Forcing (arXiv:2606.10820): context and uniform noise -> the next tokens, jointly.

A causal language model whose input may also be noise: one uniform number per token to come, each at that token's
position, under ordinary causal attention and the model's own head. All randomness is noise's; a token is an argmax.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from drafter.attention import KVCache
from drafter.models.push_forward.noise import NoiseEncoder
from drafter.models.push_forward.packed import Context, Groups, group_positions
from drafter.verifier import Verifier
from drafter.verifier.attention import ATTENTION, over
from drafter.verifier.head import output_of


class PushForwardConfig(PreTrainedConfig):
    """A backbone and how many tokens it gives at a time.

    Args:
        backbone: the config of a causal language model of transformers, as a dictionary.
        tokens_per_pass: how many tokens a pass was trained to give; it gives any smaller number, too.
        temperatures: lowest and highest that it was trained at.
        noise_periods: see `NoiseEncoder`.
    """

    model_type = "push_forward"
    backbone: dict | None = None
    tokens_per_pass: int = 1
    temperatures: tuple[float, float] | list = (1.0, 1.0)
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
            noise_periods=noise_periods,
        )
        model = cls(config)
        model.backbone.load_state_dict(verifier.model.state_dict())
        return model.to(verifier.device)

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

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of ids [...]: [..., D]."""
        return self.body.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head over normed hidden states [..., D]: [..., V]."""
        return output_of(self.backbone)(hidden)

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

    def new_cache(self, batch: int, capacity: int, kernel: str = "sdpa", replayed: bool = False) -> KVCache:
        """An empty cache for `batch` rows of up to `capacity` tokens, the noise behind them included."""
        text, attention = self.backbone.config.get_text_config(), self.body.layers[0].self_attn
        heads, width = text.num_key_value_heads, attention.head_dim
        return KVCache(len(self.body.layers), batch, capacity, heads, width, self.dtype, self.device, kernel, replayed)

    def push(self, ids: Tensor, noise: Tensor, temperature: Tensor, cache: KVCache) -> Tensor:
        """New tokens behind the cache and the G tokens behind those, in one pass; commits nothing.

        Args:
            ids: [B, Q]; their keys and values may be committed afterwards, those of noise never.
            noise: in [0, 1), [B, G].
            temperature: [B].
        Returns:
            normed hidden states of the G tokens, [B, G, D].
        """

        def run(ids: Tensor, noise: Tensor, temperature: Tensor) -> tuple[Tensor]:
            inputs = torch.cat([self.embed(ids), self.noise(noise, temperature[:, None])], dim=1)  # [B, Q + G, D]
            positions = cache.positions(inputs.shape[1])
            with over(cache):
                out = self.body(inputs_embeds=inputs, position_ids=positions, use_cache=False)
            return (out.last_hidden_state[:, ids.shape[1] :],)

        (hidden,) = cache.replay(("push", self.head.data_ptr()), run, ids, noise, temperature)
        assert hidden is not None
        return hidden


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device)[None]
