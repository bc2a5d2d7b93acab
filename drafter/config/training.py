"""`training.*` of a recipe."""

import re
from dataclasses import dataclass

from drafter.config.checks import require


@dataclass
class TrainingConfig:
    """Optimisation.

    Args:
        max_steps: optimiser steps.
        rows: rows of a step and rank.
        anchors: blocks drawn per row.
        accumulate: micro-steps per optimiser step.
        warmup: share of the steps that raise the learning rate; a cosine lowers it after that.
        clip: largest norm of the gradient.
        precision: `float32`, `bfloat16` (parameters stay float32), or `auto`: whichever a short probe finds faster.
        sampled_tokens: with a restricted vocabulary, random tokens that stand in for the missing ones in every step,
            so that the full head serves the same drafter; 0 for none.
        labels: what slots predict: the `row`'s tokens, or the `verifier`'s argmax behind the row's tokens.
        temperature: of both laws, where a loss compares the drafter's with the verifier's.
        validate_every: steps between validations; null for once an epoch.
        workers: processes that make a rank's batches beside it; 0: itself.
        devices, strategy: as Lightning understands them.
    """

    max_steps: int = 1000
    rows: int = 8
    anchors: int = 32
    accumulate: int = 1
    learning_rate: float = 6e-4
    weight_decay: float = 0.0
    warmup: float = 0.04
    clip: float = 1.0
    precision: str = "auto"
    sampled_tokens: int = 2048
    chunk_size: int = 256
    labels: str = "row"
    temperature: float = 1.0
    validate_every: int | None = None
    log_every: int = 10
    workers: int = 0
    devices: str = "1"
    strategy: str = "auto"

    def __post_init__(self) -> None:
        for name in ("max_steps", "rows", "anchors", "accumulate", "chunk_size", "log_every"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "must be >= 1")
        for name in ("learning_rate", "clip", "temperature"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "must be > 0")
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "must lie in [0, 1): a share of the steps")
        require(self.sampled_tokens >= 0, "training.sampled_tokens", self.sampled_tokens, "must be >= 0")
        require(self.labels in ("row", "verifier"), "training.labels", self.labels, "choose row or verifier")
        require(self.workers >= 0, "training.workers", self.workers, "must be >= 0")
        known = ("auto", "float32", "bfloat16")
        require(self.precision in known, "training.precision", self.precision, f"choose one of {', '.join(known)}")
        said = re.fullmatch(r"auto|[1-9]\d*|\d+(,\d+)+", self.devices) is not None
        require(said, "training.devices", self.devices, "say auto, how many (>= 1), or which ones: '0,2'")
        every = self.validate_every
        require(every is None or every >= 1, "training.validate_every", every, "must be >= 1, or null")
