"""The recipe of `system: distillation`."""

import itertools
from dataclasses import dataclass, field, fields
from typing import Any

from drafter.config.checks import check_keys, require
from drafter.config.fitting import FittingConfig
from drafter.config.run import RunConfig
from drafter.config.text import TextConfig
from drafter.config.verifier import VerifierConfig

OBJECTIVES = ("self_forcing", "noise_inversion", "independent")


@dataclass
class Stage(FittingConfig):
    """One of `stages`: how many tokens a pass is to give, and whatever it has other than `training`."""

    tokens_per_pass: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.tokens_per_pass
        power = count >= 1 and count & (count - 1) == 0
        require(power, "stages: tokens_per_pass", count, "must be a power of two: each stage doubles the one before")


@dataclass
class StudentConfig:
    """`student.*`: the push-forward model.

    Args:
        start: `verifier` (its own weights), or the directory of a push-forward model.
        noise_periods: of the fastest feature of the noise encoder; the paper has 1.
        temperatures: lowest and highest; each row of a step draws its own.
        average: decay of the moving average of the weights, which is what a stage leaves; 0 for none.
    """

    start: str = "verifier"
    noise_periods: float = 1.0
    temperatures: list[float] = field(default_factory=lambda: [1.0, 1.0])
    average: float = 0.999

    def __post_init__(self) -> None:
        require(self.noise_periods > 0, "student.noise_periods", self.noise_periods, "must be > 0")
        within = len(self.temperatures) == 2 and 0 < self.temperatures[0] <= self.temperatures[1]
        require(within, "student.temperatures", self.temperatures, "write the lowest and the highest, above 0: [1, 1]")
        require(0 <= self.average < 1, "student.average", self.average, "must lie in [0, 1)")


@dataclass
class TrialConfig:
    """`trial.*`: what the trained model writes at the end, beside its teacher.

    Args:
        prompts: held-out beginnings.
        prompt_tokens, new_tokens: of each.
        batch_sizes: at which both are timed.
        judge: a language model that is not the teacher, for the perplexity of what was written; null for none.
        frequency_penalty: see `FreeDecoder`.
        precision: of both models against the clock: `float32`, `bfloat16`, or `auto` for the faster one here. What is
            written and judged is float32's.
    """

    prompts: int = 64
    prompt_tokens: int = 16
    new_tokens: int = 64
    batch_sizes: list[int] = field(default_factory=lambda: [1, 8, 32])
    judge: str | None = None
    frequency_penalty: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        known = ("auto", "float32", "bfloat16")
        require(self.precision in known, "trial.precision", self.precision, f"choose one of {', '.join(known)}")
        for name in ("prompts", "prompt_tokens", "new_tokens"):
            require(getattr(self, name) >= 1, f"trial.{name}", getattr(self, name), "must be >= 1")
        sizes = bool(self.batch_sizes) and all(one >= 1 for one in self.batch_sizes)
        require(sizes, "trial.batch_sizes", self.batch_sizes, "name at least one, each >= 1")
        require(self.frequency_penalty >= 0, "trial.frequency_penalty", self.frequency_penalty, "must be >= 0")


@dataclass
class DistillationConfig(RunConfig):
    """`system: distillation`: K-Forcing, a language model (`verifier`, the teacher) → a push-forward model.

    Args:
        objective: `self_forcing`; or a baseline, `noise_inversion` or `independent` (slots without noise).
        stages: one after the other; an entry has `tokens_per_pass` and whatever keys of `training` it changes.
    """

    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    text: TextConfig = field(default_factory=TextConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    objective: str = "self_forcing"
    training: FittingConfig = field(default_factory=FittingConfig)
    stages: list[Any] = field(default_factory=lambda: [{"tokens_per_pass": count} for count in (1, 2, 4)])
    trial: TrialConfig = field(default_factory=TrialConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.verifier.require_body("system: distillation")
        self.verifier.require_float32("system: distillation")
        known = self.objective in OBJECTIVES
        require(known, "objective", self.objective, f"choose one of {', '.join(OBJECTIVES)}")
        require(bool(self.stages), "stages", self.stages, "name at least one, such as {tokens_per_pass: 1}")
        self.stages = [self._stage(at, said) for at, said in enumerate(self.stages)]
        counts = [stage.tokens_per_pass for stage in self.stages]
        if self.objective == "self_forcing" and self.student.start == "verifier":
            grows = counts[0] == 1 and all(two in (one, 2 * one) for one, two in itertools.pairwise(counts))
            remedy = "must begin with 1, and each stage repeat or double the one before: self-forcing teaches no more"
            require(grows, "stages: tokens_per_pass", counts, remedy)
        longest = self.text.sequence_length - max(counts)
        remedy = f"leaves no context beside {max(counts)} tokens per pass; raise it"
        require(longest >= 4, "text.sequence_length", self.text.sequence_length, remedy)
        remedy = f"a pass gives {max(counts)}, and speed is of what follows the first; raise it"
        require(self.trial.new_tokens > max(counts), "trial.new_tokens", self.trial.new_tokens, remedy)
        prompt, row = self.trial.prompt_tokens, self.text.sequence_length
        remedy = f"leaves nothing of a row of {row} tokens to compare with; lower it, or raise text.sequence_length"
        require(prompt < row, "trial.prompt_tokens", prompt, remedy)

    def _stage(self, at: int, said: Any) -> Stage:
        if isinstance(said, Stage):
            return said
        require(isinstance(said, dict), f"stages[{at}]", said, "write it as {tokens_per_pass: 2, max_steps: 500}")
        check_keys(said, Stage(), f"stages[{at}].")
        shared = {each.name: getattr(self.training, each.name) for each in fields(self.training)}
        try:
            return Stage(**{**shared, **said})
        except TypeError as error:  # of the wrong kind: "2" < 1
            raise ValueError(f"stages[{at}]={said}: {error}") from None
