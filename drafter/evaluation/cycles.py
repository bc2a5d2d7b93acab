"""The cycles of some prompts, however they were found: what each emitted and kept, and what each slot accepts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from drafter.decode import Generation
from drafter.evaluation.metrics import defined
from drafter.evaluation.statistics import Counts, Estimate, estimate


@dataclass
class Cycles:
    """Cycles along the answers of some prompts.

    Attributes:
        emitted: tokens of each cycle, per prompt; none of a prompt that could not run.
        accepted: draft tokens kept in each cycle, per prompt.
        reached, kept: per slot, how many cycles came to it with all earlier slots accepted, and how many kept it too.
    """

    emitted: list[list[int]] = field(default_factory=list)
    accepted: list[list[int]] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @classmethod
    def none(cls, slots: int) -> "Cycles":
        """Those of no prompt, of drafts of so many slots."""
        return cls(reached=[0] * slots, kept=[0] * slots)

    @classmethod
    def of(cls, generations: Sequence[Generation], draft_length: int | None = None) -> "Cycles":
        """Those of decoded answers; None: as many slots as any cycle kept."""
        if draft_length is None:
            draft_length = max((kept for one in generations for kept in one.accepted), default=0)
        found = cls.none(draft_length)
        for one in generations:
            found.add(one.emitted, one.accepted)
        return found

    def add(self, emitted: list[int], accepted: list[int]) -> None:
        """Take in the cycles of one more prompt."""
        self.emitted.append(emitted)
        self.accepted.append(accepted)
        left = sum(emitted)
        for tokens, keep in zip(emitted, accepted, strict=True):
            for slot in range(min(len(self.kept), left)):
                self.reached[slot] += slot <= keep
                self.kept[slot] += slot < keep
            left -= tokens

    @property
    def count(self) -> int:
        """Cycles, summed over prompts."""
        return sum(map(len, self.emitted))

    @property
    def prompts(self) -> int:
        """Prompts that had a cycle."""
        return sum(map(bool, self.emitted))

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens emitted by cycles over cycles, summed over prompts."""
        return sum(map(sum, self.emitted)) / max(1, self.count)

    @property
    def accepted_per_cycle(self) -> float:
        """Draft tokens kept over cycles, summed over prompts."""
        return sum(map(sum, self.accepted)) / max(1, self.count)

    @property
    def kept_share(self) -> list[float]:
        """Per slot, the share of all cycles that kept it."""
        return [count / max(1, self.count) for count in self.kept]

    @property
    def acceptance(self) -> list[float]:
        """Per slot, the share that kept it of the cycles that had kept all slots before it; NaN without one."""
        return [kept / reached if reached else math.nan for kept, reached in zip(self.kept, self.reached, strict=True)]

    def interval(self) -> Estimate:
        """Tokens per cycle with the interval over prompts; the same for the same cycles."""
        if not self.count:
            return Estimate(self.tokens_per_cycle, math.nan, math.nan)
        return estimate(paired(self)[0])

    @classmethod
    def together(cls, parts: Sequence["Cycles"]) -> "Cycles":
        """Those of all prompts of some suites, or of some ranks."""
        found = cls.none(max(len(one.kept) for one in parts))
        for one in parts:
            for emitted, accepted in zip(one.emitted, one.accepted, strict=True):
                found.add(emitted, accepted)
        return found

    def figures(self) -> dict[str, Any]:
        """What a report says of them; `export --evaluation` takes it for the model card."""
        found = self.interval()
        return {
            "prompts": self.prompts,
            "tokens_per_cycle": self.tokens_per_cycle,
            "low": defined(found.low),
            "high": defined(found.high),
            "accepted_per_cycle": self.accepted_per_cycle,
            "cycles": self.count,
            "accepted_when_reached": [defined(share) for share in self.acceptance],
            "kept_share": self.kept_share,
        }


def paired(*found: Cycles) -> list[Counts]:
    """Tokens, cycles and accepted drafts along the same prompts, [1, prompts] each, for paired comparison.

    A prompt without a cycle in any of them is left out of all.
    """
    used = [i for i in range(len(found[0].emitted)) if all(one.emitted[i] for one in found)]

    def counted(one: Cycles) -> Counts:
        numbers = {
            "emitted": [sum(one.emitted[i]) for i in used],
            "cycles": [len(one.emitted[i]) for i in used],
            "accepted": [sum(one.accepted[i]) for i in used],
        }
        return {name: torch.tensor([of_prompts], dtype=torch.float64) for name, of_prompts in numbers.items()}

    return [counted(one) for one in found]
