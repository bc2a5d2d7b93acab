"""What relaxed rules gain over the static ensembles: each, and the mean of heads that differ by their seed alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from drafter.evaluation.frontier.points import Point
from drafter.evaluation.frontier.ways import RELAXED
from drafter.evaluation.statistics import Draws, Estimate, draw, draw_runs, interval
from drafter.models.ensemble_head import HeadConfig


def gains(points: Sequence[Point], heads: Mapping[str, HeadConfig]) -> dict[str, Estimate]:
    """Of every family of several heads, every head, every other relaxed rule, by name: what `gains.csv` holds.

    Args:
        points: of the whole map.
        heads: name -> what it was made for, of the points `dynamic NAME`.
    """
    static = [point for point in points if point.way.static]
    found = {point.way.name: point for point in points if point.way.family == RELAXED and not point.way.static}
    of = {name: found.pop(f"dynamic {name}") for name in heads}
    groups = {", ".join(names): [of[name] for name in names] for names in families(heads)}
    groups |= {name: [point] for name, point in (of | found).items()}
    return {name: gain_over(static, *ones) for name, ones in groups.items()}


def families(heads: Mapping[str, HeadConfig]) -> list[list[str]]:
    """Names of heads that differ by their seed alone, where there are two or more."""
    found: list[list[str]] = []
    for name, config in heads.items():
        same = next((names for names in found if heads[names[0]].differs_by_seed(config)), None)
        if same is None:
            found.append([name])
        else:
            same.append(name)
    return [names for names in found if len(names) > 1]


def gain_over(static: Sequence[Point], *ones: Point, beside: Point | None = None) -> Estimate:
    """The reward of a point less that of the line through static ensembles, at the same tokens per cycle.

    The line is straight between neighbours, what drawing one of two weights for each answer gives, and level beyond its
    ends; it is drawn anew in every bootstrap draw. Of several points, which are one way with several heads, the mean;
    each draw takes heads, too.

    Args:
        beside: a point whose own gain is taken from that, draw by draw.
    """
    seeds, prompts = ones[0].counts["cycles"].shape
    drawn, whole = draw(seeds, prompts, number=1), Draws(torch.ones(1, seeds).double(), torch.ones(1, prompts).double())

    def gains(points: Sequence[Point], draws: Draws) -> Tensor:
        """Of each of K points in each draw: [R, K]."""
        emitted, reward = _rates(points, "emitted", draws), _rates(points, "reward", draws)
        return reward - _interpolate(_rates(static, "emitted", draws), _rates(static, "reward", draws), emitted)

    heads = draw_runs(len(ones))  # [R, K]
    gained, value = (gains(ones, drawn) * heads).sum(1) / heads.sum(1), float(gains(ones, whole).mean())
    if beside:
        gained, value = gained - gains([beside], drawn)[:, 0], value - float(gains([beside], whole))
    return interval(gained, value, seeds)


def _rates(points: Sequence[Point], what: str, draws: Draws) -> Tensor:
    """A figure of N points in each draw: [R, N]."""
    return torch.stack([_rate(point, what, draws) for point in points], 1)


def _rate(point: Point, what: str, draws: Draws) -> Tensor:
    """A figure in each draw: [R]."""
    below = point.counts["cycles" if what == "emitted" else "answers"]
    rates = (draws.prompts @ point.counts[what].T) / (draws.prompts @ below.T)  # [R, S]
    return (rates * draws.seeds).sum(1) / draws.seeds.sum(1)


def _interpolate(at: Tensor, worth: Tensor, where: Tensor) -> Tensor:
    """Lines through the points (at, worth) [R, N], read at `where` [R, K]."""
    at, order = at.sort(dim=1)
    worth = worth.gather(1, order)
    right = torch.searchsorted(at, where).clamp(1, at.shape[1] - 1)  # [R, K]
    (left_at, right_at), (left, high) = ((one.gather(1, right - 1), one.gather(1, right)) for one in (at, worth))
    share = ((where - left_at) / (right_at - left_at).clamp(min=1e-12)).clamp(0, 1)
    return left + share * (high - left)
