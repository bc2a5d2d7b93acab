"""What the recipe of every system says."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from drafter.config.checks import require


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

    def __post_init__(self) -> None:
        path = Path(self.name)
        below = bool(path.parts) and ".." not in path.parts and not path.is_absolute()
        require(below, "name", self.name, "must be a folder's name, below `output`")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in 0 to 4294967295, as numpy's do")

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.output) / self.name
