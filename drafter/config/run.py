"""What the recipe of every system says."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING


@dataclass
class RunConfig:
    """A run, whatever it trains.

    Args:
        name: of the run; it writes into `output`/`name`.
        system: what is trained, and so what else the recipe may say: one of `SYSTEMS`.
    """

    name: str = MISSING
    system: str = "alignment"
    seed: int = 0
    output: str = "runs"

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.output) / self.name
