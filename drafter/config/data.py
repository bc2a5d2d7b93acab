"""`data.*` of a recipe."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from drafter.config.cache import CacheConfig
from drafter.config.checks import require
from drafter.config.server import ServerConfig
from drafter.config.sources import read_sources
from drafter.config.tap_engine import TapEngineConfig
from drafter.config.tap_files import TapFilesConfig
from drafter.sources import POLICIES, SelfPrompting
from drafter.sources.standard_library import KINDS

ELSEWHERE = ("files", "engine")  # taps that are not made here
TAPS = ("cached", "cached_on_first_epoch", "online", *ELSEWHERE)
# What does not decide the answers: a change of it goes on with the answers that are there.
TRAINING_ONLY = (
    "answers",
    "bad_rows",
    "batch_size",
    "shard_prompts",
    "max_rows",
    "cut_loops",
    "sequence_length",
    "validation_share",
    "validation_rows",
    "test_rows",
    "taps",
    "packing",
    "streaming",
    "shuffle_buffer",
    "cache",
    "tap_files",
    "tap_engine",
)


@dataclass
class DataConfig:
    """Where prompts come from, who answers them, and the split.

    Args:
        answers: a folder of shards, or one file where it ends in `.parquet`; `regenerate` writes it, training reads it.
        sources: where prompts come from, in order; an entry has a `kind` (standard_library, self_prompting, file, hub)
            and the settings of it.
        answered_by: `verifier`, or `authors`: the answers in the sources are taken as they are.
        bad_rows: what becomes of rows that can't be used: `skip` (counted, the first of each reason named) or `fail`.
        keep_reasoning: false takes reasoning out of conversations and asks the chat template for none.
        max_new_tokens: longest answer.
        temperature: of the answers; 0 is greedy.
        top_p: answers are sampled from the likeliest tokens that together have this mass.
        batch_size: rows answered at a time.
        shard_prompts: prompts whose answers make up a shard.
        server: who answers in the verifier's stead, if anybody.
        max_rows: training rows used, the first of the file; null for all.
        cut_loops: of an answer that ends in a loop (its last tokens thrice the same ones), keep the first round alone.
        sequence_length: rows longer than this are cut.
        packing: put several documents into a row of `sequence_length`, so that little is padding; each stays by itself,
            `training.rows` counts the packed rows and `training.anchors` is of each document.
        streaming: read the answers from disk as training goes on, for data that do not fit into memory; with
            data.taps=online.
        shuffle_buffer: rows that each reader of a stream holds, to shuffle them and group them by length.
        validation_share: share of the source documents that is held out; half of them choose, half give the headline.
        validation_rows: held-out rows that validation walks over: they choose the checkpoint and the draft length.
        test_rows: held-out rows of other documents: they give the headline of a run, and of an ablation.
        taps: `cached` (computed once, kept on disk), `cached_on_first_epoch` (the same, without a wait before the
            first step), `online` (by the verifier in every step), `files` (written by an engine: data.tap_files) or
            `engine` (a server writes them as they are asked for: data.tap_engine).
    """

    answers: str = MISSING
    sources: list[Any] = field(default_factory=lambda: [{"kind": "standard_library", **dict.fromkeys(KINDS, 500)}])
    answered_by: str = "verifier"
    bad_rows: str = "skip"
    keep_reasoning: bool = True
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 64
    shard_prompts: int = 4096
    server: ServerConfig = field(default_factory=ServerConfig)
    max_rows: int | None = None
    cut_loops: bool = False
    sequence_length: int = 512
    packing: bool = False
    streaming: bool = False
    shuffle_buffer: int = 2048
    validation_share: float = 0.1
    validation_rows: int = 64
    test_rows: int = 64
    taps: str = "cached"
    cache: CacheConfig = field(default_factory=CacheConfig)
    tap_files: TapFilesConfig = field(default_factory=TapFilesConfig)
    tap_engine: TapEngineConfig = field(default_factory=TapEngineConfig)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "shard_prompts", "validation_rows", "test_rows", "shuffle_buffer"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be >= 1")
        require(self.temperature >= 0, "data.temperature", self.temperature, "must be >= 0; 0 is greedy")
        require(0 < self.top_p <= 1, "data.top_p", self.top_p, "must lie above 0 and be at most 1")
        self.sources = read_sources(self.sources)
        known = self.answered_by in ("verifier", "authors")
        require(known, "data.answered_by", self.answered_by, "choose verifier or authors")
        if self.answered_by == "authors":
            unanswered = any(isinstance(source, SelfPrompting) for source in self.sources)
            remedy = "prompts that the verifier writes have no authors' answers; leave self_prompting out"
            require(not unanswered, "data.answered_by", self.answered_by, remedy)
        require(self.bad_rows in POLICIES, "data.bad_rows", self.bad_rows, f"choose {' or '.join(POLICIES)}")
        require(self.max_rows is None or self.max_rows >= 1, "data.max_rows", self.max_rows, "must be >= 1, or null")
        require(self.sequence_length >= 8, "data.sequence_length", self.sequence_length, "must be >= 8")
        require(
            0 < self.validation_share < 1, "data.validation_share", self.validation_share, "must lie between 0 and 1"
        )
        remedy = "taps of streamed rows are made in each step; set data.taps=online"
        require(not self.streaming or self.taps == "online", "data.taps", self.taps, remedy)
        remedy = "of a stream, training takes all rows; set data.max_rows=null"
        require(not self.streaming or self.max_rows is None, "data.max_rows", self.max_rows, remedy)
        remedy = "name the folder that the engine wrote"
        require(self.taps != "files" or bool(self.tap_files.path), "data.tap_files.path", self.tap_files.path, remedy)
        remedy = "name the server: `drafter engine RECIPE --states FOLDER` says how it is started"
        require(self.taps != "engine" or bool(self.tap_engine.url), "data.tap_engine.url", self.tap_engine.url, remedy)
        require(self.taps in TAPS, "data.taps", self.taps, f"choose one of {', '.join(TAPS)}")
