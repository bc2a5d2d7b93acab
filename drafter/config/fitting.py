"""What `training.*` says in the recipes of all systems."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from drafter.config.checks import require

LOGGERS = ("tensorboard", "wandb", "mlflow")


@dataclass
class FittingConfig:
    """Optimisation, whatever is trained.

    Args:
        max_steps: optimiser steps. A run goes on to more of them if those taken would have had the same learning rates.
        rows: rows of a micro-step and rank.
        accumulate: micro-steps per optimiser step.
        optimizer: `adamw`, or `muon` for hidden matrices and AdamW for all else; one learning rate serves both.
        weight_decay: of matrices; norms and biases have none.
        schedule: of the learning rate behind its warm-up: `cosine` down to 0, `stable` until the cool-down lowers it to
            0 in a line, or `constant`.
        warmup: share of the steps that raise the learning rate.
        cooldown: share of the steps that lower it, where the schedule is `stable`.
        clip: largest norm of the gradient.
        epsilon: of AdamW.
        max_skipped: a step whose gradient is not finite is skipped; so many in a row end the run.
        precision: `float32`, `bfloat16` or `float16` (parameters stay float32; with the last, gradients are scaled), or
            `auto`: whichever of the first two a short probe finds faster.
        validate_every: steps between validations; null for once an epoch.
        log_every: steps between logged ones; the host waits for the device in those alone.
        keep: checkpoints to go on from: the last, and those before it, in case it is damaged. A run that has ended
            keeps the best and the last alone, and what more steps need where they may follow.
        profile: first and last step that a profiler watches; it writes `profile-RANK.json`, which Perfetto shows.
        loggers: who gets what is logged, beside `metrics.csv`: `tensorboard`, `wandb`, `mlflow`.
        workers: processes that make a rank's batches beside it; 0: itself.
        devices: of a node: how many, which ones ('0,2'), or `auto`; a process each.
        nodes: machines, each with as many processes; torchrun or SLURM starts them.
        strategy: `auto` (ddp where there are several ranks) or `ddp`: each rank holds all weights.
        sharded_checkpoints: with fsdp, each rank writes its own share, and a checkpoint is a folder.
        patience: minutes after which ranks give up waiting for one that does not answer.
    """

    max_steps: int = 1000
    rows: int = 8
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 6e-4
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.04
    cooldown: float = 0.2
    clip: float = 1.0
    epsilon: float = 1e-8
    max_skipped: int = 10
    precision: str = "auto"
    validate_every: int | None = None
    log_every: int = 10
    keep: int = 2
    profile: list[int] | None = None
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    workers: int = 0
    devices: str = "1"
    nodes: int = 1
    strategy: str = "auto"
    sharded_checkpoints: bool = False
    patience: float = 30.0
    strategies: ClassVar[tuple[str, ...]] = ("auto", "ddp")

    def __post_init__(self) -> None:
        for name in ("max_steps", "rows", "accumulate", "log_every", "max_skipped", "keep", "nodes"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "must be >= 1")
        for name in ("learning_rate", "clip", "epsilon"):
            require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "must be > 0")
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "must be >= 0")
        require(self.optimizer in ("adamw", "muon"), "training.optimizer", self.optimizer, "choose adamw or muon")
        schedules = ("cosine", "stable", "constant")
        remedy = f"choose one of {', '.join(schedules)}"
        require(self.schedule in schedules, "training.schedule", self.schedule, remedy)
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "must lie in [0, 1): a share of the steps")
        room, remedy = 1 - self.warmup, "must lie between 0 and 1 - training.warmup: a share of the steps"
        require(self.schedule != "stable" or 0 < self.cooldown <= room, "training.cooldown", self.cooldown, remedy)
        require(self.workers >= 0, "training.workers", self.workers, "must be >= 0")
        known = ("auto", "float32", "bfloat16", "float16")
        require(self.precision in known, "training.precision", self.precision, f"choose one of {', '.join(known)}")
        said = re.fullmatch(r"auto|[1-9]\d*|\d+(,\d+)+", self.devices) is not None
        require(said, "training.devices", self.devices, "say auto, how many (>= 1), or which ones: '0,2'")
        remedy = f"choose {' or '.join(self.strategies)}"
        require(self.strategy in self.strategies, "training.strategy", self.strategy, remedy)
        shared, remedy = self.strategy == "fsdp", "is of weights that ranks share out; set training.strategy=fsdp"
        require(shared or not self.sharded_checkpoints, "training.sharded_checkpoints", True, remedy)
        remedy = "its products of whole matrices are no work for shares; choose adamw, or another training.strategy"
        require(not shared or self.optimizer == "adamw", "training.optimizer", self.optimizer, remedy)
        require(self.patience > 0, "training.patience", self.patience, "must be > 0: minutes")
        unknown = sorted(set(self.loggers) - set(LOGGERS))
        require(not unknown, "training.loggers", unknown, f"choose among {', '.join(LOGGERS)}; [] for none")
        window, remedy = self.profile, "write the first and the last step that it watches: [10, 12]"
        require(
            window is None or (len(window) == 2 and 1 <= window[0] <= window[1]), "training.profile", window, remedy
        )
        remedy = f"begins behind training.max_steps={self.max_steps}; watch earlier steps"
        require(window is None or window[0] <= self.max_steps, "training.profile", window, remedy)
        every = self.validate_every
        require(every is None or every >= 1, "training.validate_every", every, "must be >= 1, or null")
