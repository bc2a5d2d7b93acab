"""The recipe of `system: language_model`."""

from dataclasses import dataclass, field
from typing import Any

from drafter.config.checks import require
from drafter.config.fitting import FittingConfig
from drafter.config.run import RunConfig
from drafter.config.text import TextConfig


@dataclass
class TokenizerConfig:
    """`tokenizer.*`.

    Args:
        source: a hub id or a directory; null: a byte-level one is made of the training text, with ChatML's marks.
        size: tokens of one that is made.
    """

    source: str | None = None
    size: int = 4096

    def __post_init__(self) -> None:
        require(self.size >= 300, "tokenizer.size", self.size, "must be >= 300: the bytes, and some words")


@dataclass
class LanguageModelConfig(RunConfig):
    """`system: language_model`: a causal language model from scratch, to be a verifier or a teacher.

    Args:
        model: the config of a causal language model of transformers: its `model_type`, and sizes; the vocabulary is the
            tokenizer's.
    """

    model: dict[str, Any] = field(default_factory=lambda: {"model_type": "llama"})
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    text: TextConfig = field(default_factory=TextConfig)
    training: FittingConfig = field(default_factory=FittingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = isinstance(self.model.get("model_type"), str)
        require(named, "model.model_type", self.model.get("model_type"), "name one of transformers, such as llama")
        remedy = "is the tokenizer's; leave it out"
        require("vocab_size" not in self.model, "model.vocab_size", self.model.get("vocab_size"), remedy)
