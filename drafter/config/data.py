"""`data.*` of a recipe."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from drafter.config.cache import CacheConfig
from drafter.config.checks import require

TAPS = ("cached", "cached_on_first_epoch", "online")
# What does not decide the answers: a change of it goes on with the answers that are there.
TRAINING_ONLY = (
    "answers",
    "batch_size",
    "shard_prompts",
    "max_rows",
    "sequence_length",
    "validation_share",
    "validation_rows",
    "taps",
    "packing",
    "cache",
)
PROMPT_KINDS = ("write", "explain", "annotate", "chat")


@dataclass
class DataConfig:
    """Prompts, the verifier's answers to them, and the split.

    Args:
        answers: answers of the verifier: a folder of shards, or one file where it ends in `.parquet`; `regenerate`
            writes it, training reads it.
        prompts: how many prompts of each kind `regenerate` makes: `write`, `explain` and `annotate` quote functions of
            the standard library, `chat` ones are written by the verifier itself.
        max_prompt_characters: longest code quoted in a prompt.
        max_new_tokens: longest answer.
        temperature: of the answers; 0 is greedy.
        top_p: answers are sampled from the likeliest tokens that together have this mass.
        batch_size: rows answered at a time.
        shard_prompts: prompts whose answers make up a shard.
        max_rows: training rows used, the first of the file; null for all.
        sequence_length: rows longer than this are cut.
        packing: put several documents into a row of `sequence_length`, so that little is padding; each stays by itself,
            `training.rows` counts the packed rows and `training.anchors` is of each document.
        validation_share: share of the source documents that is held out.
        validation_rows: held-out rows that validation walks over.
        taps: `cached` (computed once, kept on disk), `cached_on_first_epoch` (the same, without a wait before the
            first step) or `online` (by the verifier in every step).
    """

    answers: str = MISSING
    prompts: dict[str, int] = field(default_factory=lambda: {"write": 500, "explain": 500, "annotate": 500})
    max_prompt_characters: int = 600
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 64
    shard_prompts: int = 4096
    max_rows: int | None = None
    sequence_length: int = 512
    packing: bool = False
    validation_share: float = 0.1
    validation_rows: int = 64
    taps: str = "cached"
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "shard_prompts", "validation_rows", "max_prompt_characters"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be >= 1")
        require(self.temperature >= 0, "data.temperature", self.temperature, "must be >= 0; 0 is greedy")
        require(0 < self.top_p <= 1, "data.top_p", self.top_p, "must lie above 0 and be at most 1")
        unknown = sorted(set(self.prompts) - set(PROMPT_KINDS))
        require(not unknown, "data.prompts", unknown, f"unknown kinds; choose among {', '.join(PROMPT_KINDS)}")
        for kind, count in self.prompts.items():
            require(count >= 0, f"data.prompts.{kind}", count, "must be >= 0")
        require(self.max_rows is None or self.max_rows >= 1, "data.max_rows", self.max_rows, "must be >= 1, or null")
        require(self.sequence_length >= 8, "data.sequence_length", self.sequence_length, "must be >= 8")
        require(
            0 < self.validation_share < 1, "data.validation_share", self.validation_share, "must lie between 0 and 1"
        )
        require(self.taps in TAPS, "data.taps", self.taps, f"choose one of {', '.join(TAPS)}")
