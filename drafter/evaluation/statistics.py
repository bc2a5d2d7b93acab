"""Paired comparison of arms: bootstrap over prompts, the same draws for both arms; seeds are averaged, not drawn."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 10_000
SHARE = 0.95

Counts = Mapping[str, Tensor]  # emitted, cycles, accepted: [seeds, prompts] each


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds at least `SHARE` of its bootstrap draws."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline on the same prompts and seeds; gains are shares of the baseline's number."""

    tokens_per_cycle: Estimate
    difference: Estimate
    gain: Estimate
    accepted_gain: Estimate


def draw(prompts: int, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """How often each draw of as many prompts, with replacement, holds each prompt: [draws, prompts].

    All possible draws, each once, where there are no more than `draws`: the bootstrap is exact then.
    """
    if prompts**prompts <= draws:
        index = torch.tensor(list(itertools.product(range(prompts), repeat=prompts)))  # [R, P]
    else:
        index = torch.randint(prompts, (draws, prompts), generator=torch.Generator().manual_seed(seed))  # [R, P]
    return torch.zeros(len(index), prompts, dtype=torch.float64).scatter_add_(1, index, torch.ones_like(index).double())


def per_cycle(counts: Counts, what: str, drawn: Tensor) -> Tensor:
    """`what` over cycles, each summed over the drawn prompts, averaged over seeds: [draws]."""
    return ((drawn @ counts[what].T) / (drawn @ counts["cycles"].T)).mean(1)


def by_seed(counts: Counts, what: str = "emitted") -> list[float]:
    """`what` per cycle over all prompts, one number per seed."""
    return (counts[what].sum(1) / counts["cycles"].sum(1)).tolist()


def pair(arm: Counts, arm_seeds: list[int], other: Counts, other_seeds: list[int]) -> tuple[Counts, Counts]:
    """Both cut to the seeds that both have."""
    common = [seed for seed in arm_seeds if seed in other_seeds]
    mine, others = ([seeds.index(seed) for seed in common] for seeds in (arm_seeds, other_seeds))
    return {name: v[mine] for name, v in arm.items()}, {name: v[others] for name, v in other.items()}


def compare(arm: Counts, baseline: Counts, draws: int = DRAWS) -> Comparison:
    """An arm against the baseline; both of the same prompts and seeds, in the same order."""
    prompts = arm["cycles"].shape[1]
    drawn, whole = draw(prompts, draws), torch.ones(1, prompts, dtype=torch.float64)

    def estimate(of: Tensor, value: Tensor) -> Estimate:
        return interval(of, float(value))

    tokens, base = ([per_cycle(counts, "emitted", each) for each in (drawn, whole)] for counts in (arm, baseline))
    kept, base_kept = ([per_cycle(counts, "accepted", each) for each in (drawn, whole)] for counts in (arm, baseline))
    return Comparison(
        estimate(*tokens),
        estimate(tokens[0] - base[0], tokens[1] - base[1]),
        estimate(tokens[0] / base[0] - 1, tokens[1] / base[1] - 1),
        estimate(kept[0] / base_kept[0] - 1, kept[1] / base_kept[1] - 1),
    )


def average_gain(pairs: Mapping[str, tuple[Counts, Counts]], what: str = "emitted", draws: int = DRAWS) -> Estimate:
    """The gain averaged over suites, each drawn on its own.

    Args:
        pairs: suite → (arm, baseline).
    """
    total, value = torch.zeros(draws, dtype=torch.float64), 0.0
    for number, (arm, baseline) in enumerate(pairs.values()):
        prompts = arm["cycles"].shape[1]
        drawn, whole = draw(prompts, draws, number), torch.ones(1, prompts, dtype=torch.float64)
        if len(drawn) < draws:  # exact: every draw as often as the next
            order = torch.randperm(draws, generator=torch.Generator().manual_seed(number))
            drawn = drawn[order % len(drawn)]
        total += per_cycle(arm, what, drawn) / per_cycle(baseline, what, drawn) - 1
        value += float(per_cycle(arm, what, whole) / per_cycle(baseline, what, whole) - 1)
    return interval(total / len(pairs), value / len(pairs))


def interval(drawn: Tensor, value: float) -> Estimate:
    """`value` with the interval that holds at least `SHARE` of the draws, as many beyond each end."""
    ordered = drawn.sort().values
    cut = int(len(ordered) * (1 - SHARE) / 2)
    return Estimate(value, float(ordered[cut]), float(ordered[-1 - cut]))
