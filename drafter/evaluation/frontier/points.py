"""Each way measured on the same tasks, seeds and lengths: what it emits per cycle, how well, how far off, how fast."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drafter.decode import Generation
from drafter.decode.sampling import Law
from drafter.evaluation.frontier.ways import CONTROL, EXACT, STATIC, Way
from drafter.evaluation.race import race
from drafter.evaluation.rewards import Answered, Reward, Task
from drafter.evaluation.statistics import Counts, Draws, Estimate, draw, draw_runs, estimate, interval
from drafter.models.base import Drafter
from drafter.verifier import Verifier

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


def measure(
    verifier: Verifier, drafter: Drafter, tasks: Sequence[Task], reward: Reward, ways: Sequence[Way], setting: Setting
) -> Iterator[Point]:
    """Each way in turn, with the same seeds; the clock, which all share, runs at the end.

    Raises:
        ValueError: a task can't run.
    """
    prompts = [verifier.chat_ids(task.prompt) for task in tasks]
    rates: dict[str, float] = {}
    if setting.timed:
        turns = [[prompt] for prompt in prompts[: setting.timed]]
        decoders = {way.name: way.decoder(verifier, drafter, setting.draft_length, setting.temperature) for way in ways}
        found = race(decoders, turns, setting.max_new_tokens, 1, verifier.device)
        rates = {name: one.tokens_per_second for name, one in found.items()}
    for way in ways:
        runs = [_run(verifier, drafter, tasks, prompts, reward, way, setting, seed) for seed in range(setting.seeds)]
        counts = {name: torch.tensor([run[0][name] for run in runs], dtype=torch.float64) for name in runs[0][0]}
        answers = [one.token_ids for run in runs for one in run[1]]
        yield Point(way, counts, distinct(answers, 2), rates.get(way.name))


def distinct(answers: Sequence[Sequence[int]], count: int) -> float:
    """Different runs of `count` tokens over all of them; NaN without one.

    Source: arXiv:1510.03055 (distinct-n).
    """
    runs = [tuple(one[at : at + count]) for one in answers for at in range(len(one) - count + 1)]
    return len(set(runs)) / len(runs) if runs else math.nan


def is_static(point: Point) -> bool:
    """Whether a point lies on the line of static ensembles; speculative sampling is its strict end."""
    return point.way.rule.partition(":")[0] == STATIC or (
        point.way.rule == "speculative_sampling" and point.way.family == EXACT
    )


def gain_over(static: Sequence[Point], *ones: Point) -> Estimate:
    """The reward of a point less that of the line through static ensembles, at the same tokens per cycle.

    The line is straight between neighbours, what drawing one of two weights for each answer gives, and level beyond its
    ends; it is drawn anew in every bootstrap draw. Of several points, which are one way with several heads, the mean;
    each draw takes heads, too.
    """
    seeds, prompts = ones[0].counts["cycles"].shape
    drawn, whole = draw(seeds, prompts, number=1), Draws(torch.ones(1, seeds).double(), torch.ones(1, prompts).double())

    def gains(draws: Draws) -> Tensor:
        """Of each of `ones` in each draw: [R, K]."""
        emitted, reward = _rates(ones, "emitted", draws), _rates(ones, "reward", draws)
        return reward - _interpolate(_rates(static, "emitted", draws), _rates(static, "reward", draws), emitted)

    heads = draw_runs(len(ones))  # [R, K]
    return interval((gains(drawn) * heads).sum(1) / heads.sum(1), float(gains(whole).mean()), seeds)


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


def _run(
    verifier: Verifier,
    drafter: Drafter,
    tasks: Sequence[Task],
    prompts: list[list[int]],
    reward: Reward,
    way: Way,
    setting: Setting,
    seed: int,
) -> tuple[dict[str, list[float]], list[Generation]]:
    """One seed of a way: a number per prompt of everything that is counted."""
    answers, distances = way.watched(
        verifier,
        drafter,
        setting.draft_length,
        setting.temperature,
        prompts,
        setting.max_new_tokens,
        seed,
        setting.batch_size,
    )
    for task, one in zip(tasks, answers, strict=True):
        if not one.token_ids:
            raise ValueError(f"tasks: {task.source!r} can't run: {one.stop}")
    if way.family == CONTROL:
        law = Law(setting.temperature, way.top_p)
        writer = verifier if way.writer == "pair" else way.alone(verifier, drafter)
        distances = [distance_along(verifier, writer, law, *pair) for pair in zip(prompts, answers, strict=True)]
    texts = [verifier.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
    answered = [
        Answered(task, text, prompt, one.token_ids)
        for task, text, prompt, one in zip(tasks, texts, prompts, answers, strict=True)
    ]
    counts = {
        "emitted": [float(sum(one.emitted)) for one in answers],
        "cycles": [float(len(one.emitted)) for one in answers],
        "accepted": [float(sum(one.accepted)) for one in answers],
        "judged": [float(sum(map(min, one.emitted, one.drafted))) for one in answers],
        "reward": reward(answered),
        "answers": [1.0] * len(answers),
        "variation": distances,
        "tokens": [float(len(one.token_ids)) for one in answers],
    }
    return counts, answers


@torch.inference_mode()
def distance_along(verifier: Verifier, writer: Verifier, law: Law, prompt: list[int], answer: Generation) -> float:
    """The sum over an answer's tokens of TV between the writer's law and the verifier's untruncated one."""
    ids = torch.tensor([[*prompt, *answer.token_ids]], device=verifier.device)
    laws = []
    for model, how in ((verifier, Law(law.temperature)), (writer, law)):
        hidden, _ = model.step(ids, model.new_cache(1, ids.shape[1]))
        laws.append(how(model.logits(hidden[0, len(prompt) - 1 : -1])).double())  # [T, V]
    return float((laws[0] - laws[1]).abs().sum() / 2)
