"""Any small causal language model of transformers as a drafter: the pair of speculative sampling's first papers.

It drafts token after token, a pass each. Source: arXiv:2211.17192, arXiv:2302.01318.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig

from drafter.layouts import architectures
from drafter.models.base import Outline
from drafter.verifier import Verifier
from drafter.verifier.conversion import resolve
from drafter.verifier.tokenizer import context_length, tokenizer_hash

DRAFT_LENGTH = 5  # of a pair that nobody tuned: the papers use 3 to 7


class CausalDrafter:
    """A frozen causal LM that drafts for another one with the same tokenizer.

    Args:
        model: read as a verifier is: a causal LM whose cache can be rewound.
        draft_length: tokens proposed per cycle unless another number is asked for.
    Raises:
        ValueError: draft_length is out of range, or the model's cache can't be rewound.
    """

    def __init__(self, model: Verifier, draft_length: int = DRAFT_LENGTH):
        if model.undecodable:
            raise ValueError(f"drafter: {model.undecodable}; choose another")
        if model.recurrent:
            raise ValueError(f"drafter: {type(model.model).__name__} has layers that can't be rewound; choose another")
        if not 1 <= draft_length < model.context_length:
            raise ValueError(
                f"draft_length={draft_length}: must be >= 1 and below the drafter's context of {model.context_length}"
            )
        self.model, self.draft_length = model, draft_length

    @classmethod
    def load(
        cls,
        source: str,
        dtype: torch.dtype | None = torch.float32,
        device: str = "cpu",
        attention: str = "auto",
        compile: str = "auto",
        draft_length: int = DRAFT_LENGTH,
    ) -> "CausalDrafter":
        """Load a directory, a hub id, a GGUF file or a packaged name, as `Verifier.load` does.

        Raises:
            ValueError: it is no causal LM whose cache can be rewound, or has no tokenizer.
        """
        try:
            config = AutoConfig.from_pretrained(resolve(source), trust_remote_code=False)
            if config.is_encoder_decoder:
                raise ValueError("an encoder-decoder has no causal model of the whole text")
            return cls(Verifier.load(source, dtype, device, attention, compile), draft_length)
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"drafter={source!r}: can't draft token by token ({reason})") from None

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether a `config.json` is one of a causal language model."""
        return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures(config))

    @classmethod
    def outline(cls, source: str) -> Outline:
        """What its config says."""
        context = context_length(source)
        return Outline(DRAFT_LENGTH, context - 1)

    @classmethod
    def beside(cls, source: str, verifier: Verifier) -> "CausalDrafter":
        """Load in the dtype, on the device and with the kernels of a verifier."""
        drafter = cls.load(source, verifier.dtype, str(verifier.device), verifier.kernel, verifier.compile)
        drafter.check_verifier(verifier)
        return drafter

    @property
    def longest(self) -> int:
        """Tokens that can be proposed at most."""
        return self.model.context_length - 1

    @property
    def hidden_size(self) -> int:
        """Width of the states that its laws come from."""
        return int(self.model.config.hidden_size)

    @property
    def context_length(self) -> int:
        """Tokens of a row that it reads at most."""
        return self.model.context_length

    def check_verifier(self, verifier: Verifier) -> None:
        """Raise a ValueError unless both models read and write the same tokens.

        Heads may be padded to different sizes beyond their common tokenizer's ids.
        """
        ours, theirs = tokenizer_hash(self.model.tokenizer), tokenizer_hash(verifier.tokenizer)
        if (ours is None) != (theirs is None):
            who = "the drafter" if ours is None else "the verifier"
            raise ValueError(f"drafter: {who} has no tokenizer to compare; load it with its own")
        sizes = len(self.model.head), len(verifier.head)
        if ours != theirs or (ours is None and sizes[0] != sizes[1]):
            raise ValueError(
                f"drafter: its vocabulary ({sizes[0]} ids) is not the verifier's ({sizes[1]} ids); choose a model with "
                "the verifier's tokenizer"
            )
