"""What an export must agree with, read from the verifier's config and tokenizer alone."""

from dataclasses import dataclass, field
from typing import Any

from drafter.layouts.rope import rope_of
from drafter.verifier.conversion import resolve
from drafter.verifier.loading import FOREIGN, reason
from drafter.verifier.tokenizer import tokenizer_hash

SGLANGS_MASK = "<|MASK|>"
NEIGHBOURS = {"cohere", "cohere2", "cohere2_moe", "ernie4_5", "ernie4_5_moe", "glm", "glm4", "glm_moe_dsa", "helium"}


@dataclass(frozen=True)
class VerifierFacts:
    """A verifier as an export sees it.

    Attributes:
        name: as the user gave it; `where` is what engines load.
        truths: facts of a drafter that the verifier decides.
        longest: its context.
        special: id → what it is used for, of tokens that end, begin or pad text.
        tokens: token → id.
        spare: ids that text never uses: of no token, or of special ones without a use here and in the chat template.
        tokenizer: hash of the tokenizer, or None.
        family: its `model_type`.
    """

    name: str
    where: str
    truths: dict[str, Any]
    longest: int
    special: dict[int, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    tokenizer: str | None = None
    spare: tuple[int, ...] = ()
    family: str = ""

    @property
    def rotates_neighbours(self) -> bool:
        """Whether it rotates pairs of neighbouring dimensions, where a drafter rotates halves."""
        return self.family in NEIGHBOURS

    @classmethod
    def load(cls, source: str) -> "VerifierFacts":
        """Read them without the weights.

        Raises:
            ValueError: the source can't be found or read.
        """
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        where = resolve(source)
        try:
            whole = AutoConfig.from_pretrained(where, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        except FOREIGN as error:
            raise ValueError(f"verifier={source!r}: can't be read ({reason(error)}); check the name") from None
        try:
            generation = GenerationConfig.from_pretrained(where)
        except (OSError, ValueError):
            generation = GenerationConfig()
        config = whole.get_text_config()
        truths: dict[str, Any] = {
            "hidden_size": config.hidden_size,
            "vocab_size": config.vocab_size,
            "num_target_layers": config.num_hidden_layers,
            "rope_theta": rope_of(config)["rope_theta"],
        }
        if whole.architectures:
            truths["verifier_architectures"] = list(whole.architectures)
        special = _special(config, generation, tokenizer)
        return cls(
            source,
            where,
            truths,
            config.max_position_embeddings,
            special,
            tokenizer.get_vocab(),
            tokenizer_hash(tokenizer),
            _spare(tokenizer, config.vocab_size, special),
            config.model_type,
        )


def _spare(tokenizer: Any, size: int, special: dict[int, str]) -> tuple[int, ...]:
    known, template = set(tokenizer.get_vocab().values()), str(tokenizer.chat_template or "")
    named = [
        one
        for one, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and one < size and one not in special and token.content not in template
    ]
    return tuple([one for one in range(size) if one not in known] + named)


def _special(*sources: Any) -> dict[int, str]:
    found: dict[int, str] = {}
    for use in ("eos", "bos", "pad"):
        for source in sources:
            value = getattr(source, f"{use}_token_id", None)
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    found[one] = found[one] if use in found.get(one, "") else f"{found.get(one, '')} {use}".strip()
    return {one: use.replace(" ", " and ") for one, use in found.items()}
