"""Each way measured on the same tasks, seeds and lengths."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from drafter.decode import Generation
from drafter.decode.sampling import Law
from drafter.evaluation.frontier.kept import Kept
from drafter.evaluation.frontier.points import Point, Setting
from drafter.evaluation.frontier.ways import CONTROL, Way
from drafter.evaluation.race import race
from drafter.evaluation.rewards import Answered, Reward, Task
from drafter.models.base import Drafter
from drafter.verifier import Verifier


def measure(
    verifier: Verifier,
    drafter: Drafter,
    tasks: Sequence[Task],
    reward: Reward,
    ways: Sequence[Way],
    setting: Setting,
    kept: Kept | None = None,
) -> Iterator[Point]:
    """Each way in turn, with the same seeds; the clock, which all share, runs before.

    Args:
        kept: ways that need not answer again, of the same tasks and setting; others are put there.
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
        point = None if kept is None else kept.of(way)
        if point is None:
            asked = (verifier, drafter, tasks, prompts, reward, way, setting)
            runs = [_run(*asked, seed) for seed in range(setting.seeds)]
            counts = {name: torch.tensor([run[0][name] for run in runs], dtype=torch.float64) for name in runs[0][0]}
            point = Point(way, counts, distinct([one.token_ids for run in runs for one in run[1]], 2))
            if kept is not None:
                kept.add(point)
        yield replace(point, tokens_per_second=rates.get(way.name))


def distinct(answers: Sequence[Sequence[int]], count: int) -> float:
    """Different runs of `count` tokens over all of them; NaN without one.

    Source: arXiv:1510.03055 (distinct-n).
    """
    runs = [tuple(one[at : at + count]) for one in answers for at in range(len(one) - count + 1)]
    return len(set(runs)) / len(runs) if runs else math.nan


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
