"""What training needs of a verifier: tokenizer, embedding, final norm, output head. No body.

It is no nn.Module and never a child of one, so that no checkpoint holds it and no optimiser sees it.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from drafter.verifier.chat import Message, prompt_ids, turn_end
from drafter.verifier.ends import load_ends
from drafter.verifier.output import body_of, output_of

ENDS = "ends-"  # begins the fingerprint of a verifier without a body
IDENTITY = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
SAMPLED = 1 << 16  # numbers of each tensor that a fingerprint is of
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")


class VerifierHead:
    """The ends of a frozen causal language model: ids in, logits out.

    Args:
        model: a transformers causal LM, with layers or without.
        tokenizer: its tokenizer; None where only token ids are used.
    Attributes:
        config: of the text model.
        num_layers: of the whole model, whether they are here or not.
        output: the head as a function; every law comes from it.
        undecodable: why nothing can be decoded with it, or None where it can.
    Raises:
        ValueError: the model's logits are no product, scaled, biased or soft-capped as its config says.
    """

    undecodable: str | None = "verifier.body='none'"

    def __init__(self, model: Any, tokenizer: Any = None):
        model.requires_grad_(False).eval()
        self.model, self.tokenizer = model, tokenizer
        self.config: Any = model.config.get_text_config()
        for name in ("num_hidden_layers", "hidden_size"):
            if not hasattr(self.config, name):
                raise ValueError(f"verifier: {type(model).__name__} names no {name} in its config; choose another")
        self.num_layers: int = self.config.num_hidden_layers
        self.keep_reasoning = True  # of chat models that think before they answer; see drafter.verifier.chat
        self._body = body_of(model)
        self.output = output_of(model)

    @classmethod
    def load(cls, source: str, dtype: torch.dtype | None = torch.float32, device: str = "cpu") -> "VerifierHead":
        """Read the ends alone of a hub id, a directory, a GGUF file or a packaged name (`smollm2`); see `load_ends`.

        Raises:
            ValueError: the source can't be found or is no causal LM.
        """
        return cls(*load_ends(source, dtype, device))

    @property
    def device(self) -> torch.device:
        return self._body.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._body.get_input_embeddings().weight.dtype

    @property
    def head(self) -> Tensor:
        """Weight of the output head, [V, D]; its law is `logits`."""
        return self.output.weight

    @property
    def norm(self) -> Any:
        """The norm between the last layer and the head, a module.

        Raises:
            ValueError: it stands under no name that is known.
        """
        for name in FINAL_NORMS:
            if isinstance(found := getattr(self._body, name, None), nn.Module):
                return found
        raise ValueError(f"verifier: {type(self.model).__name__} has no final norm that is known; choose another")

    @property
    def final_norm(self) -> Tensor:
        """Gain of the norm before the head, [D].

        Raises:
            ValueError: it stands under no name that is known, or has none.
        """
        if isinstance(gain := getattr(self.norm, "weight", None), Tensor):
            return gain
        raise ValueError(f"verifier: the final norm of {type(self.model).__name__} has no gain; choose another")

    def fingerprint(self) -> str:
        """A short hash of the ends alone: of the config, and of numbers spread over embedding, norm and head.

        They are rounded to bfloat16, so that it is the same in every dtype. A body that differs between the same ends
        is not seen: only its own fingerprint tells.
        """
        known = [getattr(one_layer(self.config), name, None) for name in IDENTITY]
        digest = hashlib.sha256(json.dumps(known).encode())
        found = [self._body.get_input_embeddings().weight, self.output.weight, self.output.bias]
        with suppress(ValueError):  # a norm without a gain
            found.append(self.final_norm)
        for weight in found:
            if weight is not None:
                flat = weight.detach().flatten()
                sample = flat[:: max(1, len(flat) // SAMPLED)].contiguous().to(torch.bfloat16).cpu().view(torch.uint8)
                digest.update(f"{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
        return f"{ENDS}{digest.hexdigest()[:16]}"

    def is_of(self, fingerprint: str) -> bool:
        """Whether a recorded fingerprint, of the ends or of all weights, is that of this verifier."""
        return fingerprint in (self.fingerprint(), VerifierHead.fingerprint(self))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: those of the generation config, the tokenizer's, and the chat template's."""
        ids = self.model.generation_config.eos_token_id
        found = {ids} if isinstance(ids, int) else set(ids or ())
        if self.tokenizer is not None and self.tokenizer.eos_token_id is not None:
            found.add(self.tokenizer.eos_token_id)
        with suppress(ValueError):  # no chat model
            found.add(turn_end(self.tokenizer))
        return tuple(sorted(found))

    def chat_ids(self, prompt: str | Sequence[Message], tools: list[Any] | None = None) -> list[int]:
        """Ids of one user turn, or of a conversation, in the chat template, up to where the answer begins.

        Raises:
            ValueError: the tokenizer has no chat template, or it refuses the conversation.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return prompt_ids(self.tokenizer, messages, tools=tools, keep_reasoning=self.keep_reasoning)

    @property
    def rope_bound(self) -> int | None:
        """Tokens of a row up to which its positions do not depend on how long the batch's longest row is; None: any."""
        parameters = getattr(self.config, "rope_parameters", None) or {}
        each = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
        bound = getattr(self.config, "max_position_embeddings", None)
        if any(one.get("rope_type") == "longrope" for one in each):
            originals = [one.get("original_max_position_embeddings") for one in each]
            return min([one for one in originals if one], default=bound)
        return bound if any(one.get("rope_type") == "dynamic" for one in each) else None

    @property
    def context_length(self) -> int:
        """Tokens of a row at most."""
        most = getattr(self.config, "max_position_embeddings", None) or sys.maxsize
        return min(most, self.rope_bound or most)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of `ids` [...], scaled where the embedding itself scales them; returns [..., D]."""
        return self._body.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """The verifier's logits of normed hidden states [..., D]; returns [..., V]."""
        return self.output(hidden)

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Raise a ValueError unless every tap is a layer below the last, in ascending order."""
        last = self.num_layers - 1
        if not tap_layers or list(tap_layers) != sorted(set(tap_layers)) or tap_layers[0] < 0 or tap_layers[-1] >= last:
            raise ValueError(
                f"drafter.tap_layers={list(tap_layers)}: name distinct layers in ascending order from 0 to {last - 1} "
                f"(the last of the verifier's {self.num_layers} is normed by engines before they read it)"
            )


def one_layer(config: Any) -> Any:
    """The config of the last layer where layers differ, since transformers lets none read what differs; or `config`."""
    return config.per_layer_config[-1] if getattr(config, "is_heterogeneous", False) else config
