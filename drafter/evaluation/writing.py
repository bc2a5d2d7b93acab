"""What was written, judged: perplexity under another model, variety, repetition, preference. Pure functions of text."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from drafter.evaluation.statistics import Estimate, estimate
from drafter.verifier import Verifier

Prefers = Callable[[str, str, str], bool]  # (prompt, first answer, second answer) -> whether the first is better


@dataclass(frozen=True)
class Variety:
    """How varied answers are.

    Attributes:
        distinct_1, distinct_2, distinct_3: different n-grams over n-grams, of all answers together.
        entropy: of the tokens of one answer, nats, mean over answers.
        repetition: share of an answer's 4-grams that it has had before, mean over answers.
    """

    distinct_1: float
    distinct_2: float
    distinct_3: float
    entropy: float
    repetition: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def variety(answers: Sequence[Sequence[int]]) -> Variety:
    """Of token ids."""
    shares = {}
    for size in (1, 2, 3):
        grams = [gram for answer in answers for gram in ngrams(answer, size)]
        shares[f"distinct_{size}"] = len(set(grams)) / len(grams) if grams else float("nan")
    long = [one for one in answers if len(one) >= 4]
    repeated = [1 - len(set(ngrams(one, 4))) / (len(one) - 3) for one in long]
    entropy = _mean([_entropy(one) for one in answers if one])
    return Variety(**shares, entropy=entropy, repetition=_mean(repeated))


def ngrams(ids: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """All runs of `size` ids."""
    return [tuple(ids[at : at + size]) for at in range(len(ids) - size + 1)]


class Reader:
    """A language model that reads what others wrote, each text once."""

    def __init__(self, judge: Verifier):
        self.judge = judge
        self.read: dict[tuple[str, str], tuple[float, int]] = {}

    @torch.inference_mode()
    def nll(self, prompt: str, answer: str) -> tuple[float, int]:
        """Summed negative log-likelihood of an answer behind its prompt, nats, and the judge's tokens that it is of.

        The judge reads both as one text; what it counts are its tokens behind as many as the prompt has.
        """
        if (prompt, answer) not in self.read:
            judge = self.judge
            known = len(judge.tokenizer.encode(prompt))
            ids = judge.tokenizer.encode(prompt + answer)[: judge.config.max_position_embeddings]
            total, own = 0.0, ids[known:]
            if own:
                hidden, _ = judge.step(torch.tensor([ids], device=judge.device), judge.new_cache(1, len(ids)))
                scores = judge.logits(hidden[0, known - 1 : -1]).float().log_softmax(-1)  # [T, V]
                total = -float(scores.gather(1, torch.tensor(own, device=judge.device)[:, None]).sum())
            self.read[prompt, answer] = total, len(own)
        return self.read[prompt, answer]

    def perplexity(self, prompts: Sequence[str], answers: Sequence[str]) -> Estimate:
        """exp of the mean over all tokens of all answers, with its interval over prompts; NaN without any."""
        found = [self.nll(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        total, count = torch.tensor(found, dtype=torch.float64).T[:, None]  # [1, P]
        if not count.sum():
            return Estimate(math.nan, math.nan, math.nan)
        mean = estimate({"nll": total, "cycles": count}, "nll")
        return Estimate(math.exp(mean.value), math.exp(mean.low), math.exp(mean.high))

    def prefers(self, prompt: str, first: str, second: str) -> bool:
        """Whether the first is likelier per token, no token being never so: blind to repetition, as all perplexity."""
        both = (self.nll(prompt, one) for one in (first, second))
        means = [total / count if count else math.inf for total, count in both]
        return means[0] < means[1]


def win_rate(
    prompts: Sequence[str], ours: Sequence[str], theirs: Sequence[str], prefers: Prefers, seed: int = 0
) -> Estimate:
    """How often our answer is preferred; which of the two is shown first is drawn, for judges have habits.

    Answers that are the same count half, and no judge sees them. The interval is Wilson's, 95 %.
    """
    draw = random.Random(seed)
    wins = 0.0
    for prompt, our, their in zip(prompts, ours, theirs, strict=True):
        first = draw.random() < 0.5
        if our == their:
            wins += 0.5
        else:
            wins += prefers(prompt, our, their) if first else not prefers(prompt, their, our)
    count, z = len(prompts), 1.959964
    share = wins / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Estimate(share, middle - half, middle + half)


def _entropy(ids: Sequence[int]) -> float:
    return -sum(count / len(ids) * math.log(count / len(ids)) for count in Counter(ids).values())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
