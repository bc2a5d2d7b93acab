"""What heads gain over the static ensembles: each, and the mean of those that differ by their seed alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from drafter.evaluation.frontier.points import Point, gain_over, is_static
from drafter.models.ensemble_head import HeadConfig


def gains(points: Sequence[Point], heads: Mapping[str, HeadConfig]) -> list[dict[str, Any]]:
    """Lines of `heads.csv`: every head alone, then every family of several.

    Args:
        points: of the whole map.
        heads: name -> what it was made for, of the points `dynamic NAME`.
    """
    static = [point for point in points if is_static(point)]
    of = {name: point for point in points for name in heads if point.way.name == f"dynamic {name}"}
    found = []
    for names in [*([name] for name in heads), *families(heads)]:
        gain = gain_over(static, *(of[name] for name in names))
        line = {"heads": ", ".join(names), "count": len(names)}
        found.append(line | {"gain": gain.value, "low": gain.low, "high": gain.high})
    return found


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
