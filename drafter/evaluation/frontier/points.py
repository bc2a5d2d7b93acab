"""A way, measured: what it emits per cycle, how well, how far off, how fast."""

from dataclasses import dataclass
from typing import Any

from drafter.evaluation.frontier.ways import Way
from drafter.evaluation.statistics import Counts, Estimate, estimate

FIGURES = ("tokens_per_cycle", "acceptance", "reward", "variation", "distinct_2", "tokens_per_second")
COLUMNS = ("way", *(name.replace("_", " ") for name in FIGURES))


@dataclass(frozen=True)
class Setting:
    """What all ways have in common.

    Args:
        seeds: runs of every task.
        draft_length: None for the drafter's own.
        timed: tasks that are decoded once more, one by one, against the clock; 0 for none.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    draft_length: int | None = None
    seeds: int = 3
    batch_size: int = 32
    timed: int = 4

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: must be > 0; at 0 rules have no law to compare")
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds}: must be >= 1")


@dataclass(frozen=True)
class Point:
    """A way, measured.

    Attributes:
        counts: `emitted`, `accepted`, `judged`, `reward`, `variation` and `tokens`, and what each is over, [S, P].
        distinct_2: different pairs of neighbouring tokens over all pairs, within all answers.
        tokens_per_second: behind the first token, one answer at a time; None where no clock ran.
    """

    way: Way
    counts: Counts
    distinct_2: float
    tokens_per_second: float | None = None

    def over(self, what: str, denominator: str) -> Estimate:
        """A figure with its interval over seeds and prompts."""
        return estimate({"cycles": self.counts[denominator], what: self.counts[what]}, what)

    @property
    def tokens_per_cycle(self) -> Estimate:
        return self.over("emitted", "cycles")

    @property
    def reward(self) -> Estimate:
        return self.over("reward", "answers")

    @property
    def variation(self) -> Estimate:
        """Of the law of a token from the verifier's, averaged over all tokens."""
        return self.over("variation", "tokens")

    @property
    def acceptance(self) -> Estimate:
        """Drafts kept over drafts judged."""
        return self.over("accepted", "judged")

    def figures(self) -> dict[str, Any]:
        """A line of the CSV file."""
        found: dict[str, Any] = {"way": self.way.name, "family": self.way.family, "rule": self.way.rule}
        for name in ("tokens_per_cycle", "acceptance", "reward", "variation"):
            one = getattr(self, name) if self.way.writer == "pair" or name != "acceptance" else None
            found |= {name: one and one.value, f"{name}_low": one and one.low, f"{name}_high": one and one.high}
        return found | {"distinct_2": self.distinct_2, "tokens_per_second": self.tokens_per_second}

    def line(self) -> dict[str, str]:
        """A line of the table: figures with their intervals."""
        found = self.figures()
        shown = {"way": self.way.name}
        for name, column in zip(FIGURES, COLUMNS[1:], strict=True):
            if found[name] is not None:
                shown[column] = f"{found[name]:.1f}" if name == "tokens_per_second" else f"{found[name]:.3f}"
                if f"{name}_low" in found:
                    shown[column] += f" [{found[f'{name}_low']:.3f}, {found[f'{name}_high']:.3f}]"
        return shown
