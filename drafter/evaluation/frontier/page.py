"""The map on a page: what relaxing gained in a sentence, the picture, way by way."""

from collections.abc import Mapping, Sequence

from drafter.evaluation.frontier.picture import map_of
from drafter.evaluation.frontier.points import COLUMNS, Point
from drafter.evaluation.frontier.ways import CONTROL
from drafter.evaluation.report.page import Page
from drafter.evaluation.statistics import Estimate

METHOD = (
    "Every way answers the same tasks with the same seeds and lengths. Tokens per cycle: tokens emitted by cycles over "
    "cycles. Acceptance: drafts kept over drafts judged. Variation: total variation between the law that a token was "
    "drawn from and the verifier's, averaged over tokens. Distinct 2: different pairs of neighbouring tokens over all "
    "pairs. Tokens per second: behind the first token, one answer at a time. Intervals hold 95 % of a bootstrap over "
    "seeds and tasks. Controls are the verifier itself, truncated, and the drafter alone: a relaxed rule that is no "
    "better than they are is not worth its law."
)


def findings(points: Sequence[Point], reward: str, gains: Mapping[str, Estimate]) -> list[str]:
    """In a sentence each: what relaxed rules gain over the static ensembles; the best control.

    Args:
        gains: as `gains` gives them.
    """
    said = [
        f"{name}: {reward} over the static ensembles at its tokens per cycle {gain.value:+.3f} "
        f"[{gain.low:+.3f}, {gain.high:+.3f}]"
        for name, gain in gains.items()
    ]
    controls = [point for point in points if point.way.family == CONTROL]
    if controls:
        best = max(controls, key=lambda point: point.reward.value)
        said.append(f"The control to beat: {_place(best, reward)}")
    return said


def add_map(page: Page, points: Sequence[Point], reward: str) -> None:
    """The picture and the table; a point's number is its line's."""
    page.picture(map_of(points, reward))
    head = ["number in the picture", *(column.replace("reward", reward) for column in COLUMNS)]
    lines = [point.line() for point in points]
    page.table(head, [[str(at), *(line.get(name, "") for name in COLUMNS)] for at, line in enumerate(lines, 1)])
    page.text(METHOD)


def map_page(
    points: Sequence[Point], reward: str, gains: Mapping[str, Estimate], facts: dict[str, str], theory: str = ""
) -> Page:
    """The page of `drafter frontier`.

    Args:
        gains: as `findings`.
        facts: what was asked of what, where.
        theory: beside the clock; empty where none ran.
    """
    page = Page(f"What relaxing costs: {facts['drafter']}")
    for at, each in enumerate(findings(points, reward, gains)):
        (page.text if at else page.lead)(f"{each}.")
    add_map(page, points, reward)
    if theory:
        page.heading("Theory beside the clock")
        page.text(theory)
    page.heading("How this was made")
    page.table(["fact", "value"], [[name, value] for name, value in facts.items()])
    return page


def _place(point: Point, reward: str) -> str:
    figures = point.tokens_per_cycle.value, point.reward.value, point.variation.value
    return f"{point.way.name}, {{:.3f}}, at {reward} {{:.3f}} and a distance of {{:.3f}} per token".format(*figures)
