"""How sure a number is: one bootstrap over seeds and prompts, paired where two arms are compared.

Seeds and prompts are crossed: every run of an arm answers the same prompts. A draw takes prompts with replacement and,
independently, seeds; both arms get the same draw. Of S seeds it takes S - 1: the mean of as many has the variance of a
mean over S runs, where S of them would show (S - 1) / S of it, two thirds for three (Rao and Wu, JASA 83, 1988).
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

DRAWS = 10_000
SHARE = 0.95

Counts = Mapping[str, Tensor]  # emitted, cycles, accepted: [seeds, prompts] each


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds at least `SHARE` of its bootstrap draws.

    Attributes:
        seeds: how many the draws were taken from; of one, the interval knows prompts alone and the number is a hint.
    """

    value: float
    low: float
    high: float
    seeds: int = 1

    @property
    def hint(self) -> bool:
        return self.seeds < 2

    @property
    def above_zero(self) -> bool:
        """Whether the interval, over seeds and prompts, lies above 0; never of a hint."""
        return self.low > 0 and not self.hint


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline on the same prompts and seeds; gains are shares of the baseline's number.

    Attributes:
        gains: in tokens per cycle, seed by seed.
    """

    tokens_per_cycle: Estimate
    difference: Estimate
    gain: Estimate
    accepted_gain: Estimate
    gains: list[float] = field(default_factory=list)


class Draws(NamedTuple):
    """How often each draw holds each seed, [draws, seeds], and each prompt, [draws, prompts]."""

    seeds: Tensor
    prompts: Tensor


@lru_cache(maxsize=4)
def draw(seeds: int, prompts: int, draws: int = DRAWS, number: int = 0) -> Draws:
    """Bootstrap draws, the same ones every time.

    All possible draws, each once, where there are no more than `draws`: the bootstrap is exact then.

    Args:
        number: of the suite: seeds are drawn alike for all suites, whose runs are the same, prompts for each alone.
    """
    taken = max(1, seeds - 1)
    possible = seeds**taken * prompts**prompts
    if number == 0 and possible <= draws:
        every = itertools.product(_all(seeds, taken), _all(prompts, prompts))
        by_seed, by_prompt = (torch.stack(side) for side in zip(*every, strict=True))
        return Draws(by_seed, by_prompt)
    return Draws(_some(seeds, taken, draws, 0), _some(prompts, prompts, draws, 1 + number))


def draw_runs(runs: int, draws: int = DRAWS) -> Tensor:
    """How often each draw holds each of several runs, [draws, runs]: R - 1 of R, apart from its seeds and prompts."""
    return _some(runs, max(1, runs - 1), draws, -1)


def per_cycle(counts: Counts, what: str, drawn: Draws) -> Tensor:
    """`what` over cycles, each summed over the drawn prompts, averaged over the drawn seeds: [draws]."""
    rates = (drawn.prompts @ counts[what].T) / (drawn.prompts @ counts["cycles"].T)  # [draws, seeds]
    return (rates * drawn.seeds).sum(1) / drawn.seeds.sum(1)


def by_seed(counts: Counts, what: str = "emitted") -> list[float]:
    """`what` per cycle over all prompts, one number per seed."""
    return (counts[what].sum(1) / counts["cycles"].sum(1)).tolist()


def pair(arm: Counts, arm_seeds: list[int], other: Counts, other_seeds: list[int]) -> tuple[Counts, Counts]:
    """Both cut to the seeds that both have."""
    common = [seed for seed in arm_seeds if seed in other_seeds]
    mine, others = ([seeds.index(seed) for seed in common] for seeds in (arm_seeds, other_seeds))
    return {name: v[mine] for name, v in arm.items()}, {name: v[others] for name, v in other.items()}


def estimate(counts: Counts, what: str = "emitted", draws: int = DRAWS) -> Estimate:
    """`what` per cycle of one arm."""
    seeds, prompts = counts["cycles"].shape
    return interval(per_cycle(counts, what, draw(seeds, prompts, draws)), _mean(counts, what), seeds)


def compare(arm: Counts, baseline: Counts, draws: int = DRAWS) -> Comparison:
    """An arm against the baseline; both of the same prompts and seeds, in the same order."""
    seeds, prompts = arm["cycles"].shape
    drawn = draw(seeds, prompts, draws)
    tokens, base = per_cycle(arm, "emitted", drawn), per_cycle(baseline, "emitted", drawn)
    kept, base_kept = per_cycle(arm, "accepted", drawn), per_cycle(baseline, "accepted", drawn)
    value, base_value = _mean(arm, "emitted"), _mean(baseline, "emitted")
    return Comparison(
        interval(tokens, value, seeds),
        interval(tokens - base, value - base_value, seeds),
        interval(tokens / base - 1, value / base_value - 1, seeds),
        interval(kept / base_kept - 1, _gain(arm, baseline, "accepted"), seeds),
        [mine / other - 1 for mine, other in zip(by_seed(arm), by_seed(baseline), strict=True)],
    )


def average_gain(pairs: Mapping[str, tuple[Counts, Counts]], what: str = "emitted", draws: int = DRAWS) -> Estimate:
    """The gain averaged over suites: the runs are the same in all of them, the prompts of each are drawn on their own.

    Args:
        pairs: suite → (arm, baseline).
    """
    total, value, seeds = torch.zeros(draws, dtype=torch.float64), 0.0, 1
    for number, (arm, baseline) in enumerate(pairs.values(), 1):
        seeds, prompts = arm["cycles"].shape
        drawn = draw(seeds, prompts, draws, number)
        total += per_cycle(arm, what, drawn) / per_cycle(baseline, what, drawn) - 1
        value += _gain(arm, baseline, what)
    return interval(total / len(pairs), value / len(pairs), seeds)


def interval(drawn: Tensor, value: float, seeds: int = 1) -> Estimate:
    """`value` with the interval that holds at least `SHARE` of the draws, as many beyond each end."""
    ordered = drawn.sort().values
    cut = int(len(ordered) * (1 - SHARE) / 2)
    return Estimate(value, float(ordered[cut]), float(ordered[-1 - cut]), seeds)


def _mean(counts: Counts, what: str) -> float:
    found = by_seed(counts, what)
    return sum(found) / len(found)


def _gain(arm: Counts, baseline: Counts, what: str) -> float:
    base = _mean(baseline, what)
    return _mean(arm, what) / base - 1 if base else math.nan


def _all(count: int, taken: int) -> Tensor:
    """Every way to take so many of so many with replacement: how often it takes each, [count**taken, count]."""
    return _tally(torch.tensor(list(itertools.product(range(count), repeat=taken))), count)


def _some(count: int, taken: int, draws: int, seed: int) -> Tensor:
    return _tally(torch.randint(count, (draws, taken), generator=torch.Generator().manual_seed(seed)), count)


def _tally(index: Tensor, count: int) -> Tensor:
    return torch.zeros(len(index), count, dtype=torch.float64).scatter_add_(1, index, torch.ones_like(index).double())
