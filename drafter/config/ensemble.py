"""The recipe of `system: ensemble`."""

from dataclasses import dataclass, field

from drafter.config.checks import require
from drafter.config.fitting import FittingConfig
from drafter.config.run import RunConfig
from drafter.config.verifier import VerifierConfig


@dataclass
class EnsembleSettings:
    """`ensemble.*`: the drafter, and the objective of the head: E[reward + acceptance_weight · accepted drafts].

    Args:
        drafter: of any kind, frozen: a directory, a hub id, a packaged name; null: made first, as `pair` says.
        draft_length: tokens proposed per cycle; null for the drafter's own number.
        temperature: of both models' laws in roll-outs.
        rollouts: answers to each prompt of a batch.
        updates: optimiser steps on each batch of roll-outs.
        acceptance_weight: lambda of arXiv:2604.07622, in units of the reward's standard deviation, per accepted draft.
        clip: of the ratio of new to old probabilities.
        start_weight: of the verifier, everywhere, before training.
        start_budget: instead, begin as `variation_budget` of this distance, as nearly as the head can; null for none.
    """

    drafter: str | None = None
    draft_length: int | None = None
    temperature: float = 1.0
    rollouts: int = 4
    updates: int = 4
    acceptance_weight: float = 0.3
    clip: float = 0.2
    start_weight: float = 0.5
    start_budget: float | None = None

    def __post_init__(self) -> None:
        for name in ("rollouts", "updates"):
            require(getattr(self, name) >= 1, f"ensemble.{name}", getattr(self, name), "must be >= 1")
        for name in ("temperature", "clip"):
            require(getattr(self, name) > 0, f"ensemble.{name}", getattr(self, name), "must be > 0")
        weight, start, budget = self.acceptance_weight, self.start_weight, self.start_budget
        require(weight >= 0, "ensemble.acceptance_weight", weight, "must be >= 0; more accepts more")
        require(0 < start < 1, "ensemble.start_weight", start, "must lie in (0, 1)")
        require(budget is None or 0 < budget < 1, "ensemble.start_budget", budget, "must lie in (0, 1), or be null")
        length = self.draft_length
        require(length is None or length >= 1, "ensemble.draft_length", length, "must be >= 1, or null")


@dataclass
class PairConfig:
    """`pair.*`: a drafter cut out of the verifier, where none is named, and fitted to its answers to the tasks.

    Args:
        layers: of the verifier's, evenly spaced.
        answers: sampled answers to each training task.
        sequence_length: tokens of a row.
    """

    layers: int = 4
    answers: int = 2
    sequence_length: int = 128
    training: FittingConfig = field(default_factory=lambda: FittingConfig(max_steps=300, rows=4, learning_rate=1e-3))

    def __post_init__(self) -> None:
        for name in ("layers", "answers"):
            require(getattr(self, name) >= 1, f"pair.{name}", getattr(self, name), "must be >= 1")
        require(self.sequence_length >= 8, "pair.sequence_length", self.sequence_length, "must be >= 8")
        require_one_process("pair.training", self.training)


@dataclass
class TasksConfig:
    """`tasks.*`: what is asked; a quarter of the sources is kept from training, half of that to validate, half to test.

    Args:
        kind: `sums`, `worded_sums`, `arithmetic`, `doctests` or `explanations`, made on the spot; or a JSONL file, a
            `prompt` per line with what its reward compares with (`reference`; or `entry`, `signature`, `setup` and
            `check`).
        count: tasks, at most.
        validation, test: held-out tasks of each, at most.
        test_seeds: answers to each test task, by each way of decoding.
        timed: test tasks that each way decodes once more against the clock, one by one; 0 for none.
        max_new_tokens: longest answer.
    """

    kind: str = "arithmetic"
    count: int = 400
    validation: int = 16
    test: int = 32
    test_seeds: int = 3
    timed: int = 4
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("count", "validation", "test", "test_seeds"):
            require(getattr(self, name) >= 1, f"tasks.{name}", getattr(self, name), "must be >= 1")
        require(self.timed >= 0, "tasks.timed", self.timed, "must be >= 0")
        require(self.max_new_tokens >= 2, "tasks.max_new_tokens", self.max_new_tokens, "must be >= 2")


@dataclass
class RewardConfig:
    """`reward.*`: what an answer is worth.

    Args:
        kind: `exact_match`, `rouge_2`, `unit_tests` or `log_likelihood`.
        seconds, megabytes, together: of the programs that `unit_tests` runs.
    """

    kind: str = "exact_match"
    seconds: float = 4.0
    megabytes: int = 512
    together: int = 2


@dataclass
class EnsembleConfig(RunConfig):
    """`system: ensemble`: the head of a dynamic ensemble of a verifier and a drafter, both frozen (DIVERSED)."""

    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    pair: PairConfig = field(default_factory=PairConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    training: FittingConfig = field(default_factory=lambda: FittingConfig(max_steps=80, learning_rate=5e-4))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.verifier.require_body("system: ensemble")
        require(
            self.verifier.dtype == "float32",
            "verifier.dtype",
            self.verifier.dtype,
            "training.precision says it here; leave it out",
        )
        remedy = "roll-outs are batches already; raise training.rows or ensemble.rollouts"
        require(self.training.accumulate == 1, "training.accumulate", self.training.accumulate, remedy)
        require_one_process("training", self.training)


def require_one_process(section: str, settings: FittingConfig) -> None:
    """Raise a ValueError where several would train."""
    remedy = "one process answers the tasks and trains on them; set 1"
    require(settings.devices == "1", f"{section}.devices", settings.devices, remedy)
    require(settings.nodes == 1, f"{section}.nodes", settings.nodes, remedy)
