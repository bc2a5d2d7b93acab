"""A recipe, whole: what all systems say, and the schema of each."""

from dataclasses import dataclass, field

from drafter.config.checks import require
from drafter.config.data import ELSEWHERE, DataConfig
from drafter.config.decoding import DecodingConfig
from drafter.config.distillation import DistillationConfig
from drafter.config.drafter import DrafterSettings
from drafter.config.ensemble import EnsembleConfig
from drafter.config.language_model import LanguageModelConfig
from drafter.config.run import RunConfig
from drafter.config.training import TrainingConfig
from drafter.config.verifier import VerifierConfig
from losses import Losses


@dataclass
class Config(RunConfig):
    """What the recipe of every system says that trains beside a verifier on its answers."""

    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class AlignmentConfig(Config):
    """`system: alignment`, a block-diffusion drafter aligned with its verifier: all that decides the run's numbers."""

    drafter: DrafterSettings = field(default_factory=DrafterSettings)
    losses: Losses = field(default_factory=Losses)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        length, size = self.decoding.draft_length, self.drafter.block_size
        remedy = f"must lie between 1 and drafter.block_size - 1 = {size - 1}, or be null"
        require(length is None or 1 <= length < size, "decoding.draft_length", length, remedy)
        every, remedy = self.training.validate_every, "steps of an epoch are not known of a stream; say how many"
        require(not self.data.streaming or every is not None, "training.validate_every", every, remedy)
        if self.data.taps not in ELSEWHERE:
            self.verifier.require_body(f"data.taps={self.data.taps!r}", f"data.taps={' or '.join(ELSEWHERE)}")
        if self.drafter.start == "verifier":
            self.verifier.require_body("drafter.start='verifier'", "drafter.start=random")
        if self.data.taps == "cached_on_first_epoch":
            remedy = "one process makes both batches and taps; set training.workers=0 and training.devices=1"
            alone = (self.training.workers, self.training.devices, self.training.nodes) == (0, "1", 1)
            require(alone, "data.taps", self.data.taps, remedy)
        remedy = "an engine is asked by threads beside the step (data.tap_engine.prefetch); set training.workers=0"
        known = self.data.taps != "engine" or self.training.workers == 0
        require(known, "training.workers", self.training.workers, remedy)
        if self.losses.compare_laws:
            named = ", ".join(name for name, loss in self.losses.active.items() if loss.needs - {"nll"})
            remedy = f"losses on the verifier's law ({named}) compare whole vocabularies; set drafter.vocabulary=full"
            require(self.drafter.vocabulary == "full", "drafter.vocabulary", self.drafter.vocabulary, remedy)

        for name in self.losses.capped:
            remedy = f"losses.{name}.gradient_cap is measured batch by batch; set it to 1, or the cap to null"
            require(self.training.accumulate == 1, "training.accumulate", self.training.accumulate, remedy)

    @property
    def served_as(self) -> str:
        """The verifier's name with a server of its hidden states."""
        return self.data.tap_engine.model or self.data.server.model or self.verifier.source

    @property
    def asks_last(self) -> bool:
        """Whether an engine is asked for the last states: training reads them, or a verifier without layers is checked
        by them."""
        return self.needs_states or self.verifier.body == "none"

    @property
    def needs_states(self) -> bool:
        """Whether training reads the verifier's last hidden states beside its taps."""
        return self.losses.compare_laws or self.training.labels == "verifier"


SYSTEMS: dict[str, type[RunConfig]] = {
    "alignment": AlignmentConfig,
    "language_model": LanguageModelConfig,
    "distillation": DistillationConfig,
    "ensemble": EnsembleConfig,
}
