"""Ways of decoding against each other and against their parts: same prompts, same process, taking turns.

A slow minute of the machine then slows all of them. The time up to the first token is taken apart, since the prefill is
the same whatever decodes after it.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch

from drafter.decode import Costs, Generation, tokens_per_cycle
from drafter.decode.proposers import BlockDiffusionProposer
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

T = TypeVar("T")
Way = Callable[[Sequence[list[int]], int], list[Generation]]  # (prompts decoded together, longest answer) -> answers


@dataclass(frozen=True)
class Lap:
    """One way of decoding some prompts.

    Attributes:
        seconds: behind the first token of each answer, summed over rounds; of each round the median of its repeats.
    """

    answers: list[Generation]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens behind the first of each answer."""
        return sum(max(0, len(one.token_ids) - 1) for one in self.answers)

    @property
    def seconds_per_token(self) -> float:
        """Wall time over the tokens of all rows."""
        return self.seconds / self.tokens if self.tokens else math.nan

    @property
    def cycles(self) -> int:
        """Summed over rows."""
        return sum(len(one.emitted) for one in self.answers)

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens emitted by cycles over cycles, summed over rows."""
        return tokens_per_cycle(self.answers)

    @property
    def verifier_calls(self) -> int:
        """Behind the prefills, summed over rows."""
        return sum(max(0, one.verifier_calls - 1) for one in self.answers)


def race(
    ways: Mapping[str, Way],
    rounds: Sequence[Sequence[list[int]]],
    max_new_tokens: int,
    repeats: int,
    device: torch.device,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Lap]:
    """Let each way decode each round's prompts, `repeats` times, in turn.

    Args:
        rounds: prompts that are decoded together.
        between: called once before each turn of all ways, as measurements of their parts are.
    """
    for way in ways.values():
        way([prompt[:8] for prompt in rounds[0]], 8)  # warm up
    answers: dict[str, list[Generation]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for prompts in rounds:
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(repeats):
            between()
            for name, way in ways.items():
                first, _ = timed(device, way, prompts, 1)
                whole, made = timed(device, way, prompts, max_new_tokens)
                taken[name].append(whole - first)
                answers[name] += made if repeat == 0 else []
        for name, found in taken.items():
            seconds[name] += statistics.median(found)
    return {name: Lap(answers[name], seconds[name]) for name in ways}


def timed(device: torch.device, run: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds of `run(*arguments)`, the device's work included, and what it returned."""
    start = time.perf_counter()
    result = run(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


class Parts:
    """The passes that a cycle is made of, alone: drafts, and the verifier over a number of tokens.

    Args:
        batch: rows of a pass.
        context: tokens that every row has committed.
        widths: tokens of the verifier's passes; of 1 in any case, which is plain decoding.
        lengths: draft lengths.
    """

    @torch.inference_mode()
    def __init__(
        self,
        verifier: Verifier,
        drafter: BlockDiffusionDrafter,
        batch: int,
        context: int,
        widths: Sequence[int],
        lengths: Sequence[int],
    ):
        self.verifier, self.drafter = verifier, drafter
        widest = max(drafter.block_size, *widths)
        self.cache = verifier.new_cache(batch, context + widest, verifier.replayed)
        self.draft_cache = drafter.new_cache(batch, context + widest, verifier.kernel, verifier.replayed)
        for cache in (self.cache, self.draft_cache):
            cache.set_lengths([context] * batch)
        self.ids = torch.full((batch, widest), drafter.mask_token_id, device=verifier.device)
        taps = (batch, drafter.block_size, drafter.fc.in_features)
        self.taps = torch.zeros(taps, dtype=verifier.dtype, device=verifier.device)
        self.proposers = {length: BlockDiffusionProposer(verifier, drafter, length) for length in lengths}
        self.drafts: dict[int, list[float]] = {length: [] for length in self.proposers}
        self.verifications: dict[int, list[float]] = {width: [] for width in sorted({1, *widths})}
        self.measure()  # warm up
        for kept in (*self.drafts.values(), *self.verifications.values()):
            kept.clear()

    @torch.inference_mode()
    def measure(self) -> None:
        """Take each pass once more."""
        for width, kept in self.verifications.items():
            kept.append(timed(self.verifier.device, self._verify, width)[0])
        for length, kept in self.drafts.items():
            kept.append(timed(self.verifier.device, self._draft, length)[0])

    def draft(self, length: int) -> float:
        """The median of a draft of so many tokens, in seconds; none takes none."""
        return statistics.median(self.drafts[length]) if length else 0.0

    def verify(self, width: int) -> float:
        """The median of a verifier's pass over so many tokens, in seconds."""
        return statistics.median(self.verifications[width])

    def cycle(self, length: int) -> float:
        """Both passes of a cycle, in seconds."""
        return self.draft(length) + self.verify(1 + length)

    def ideal(self, tokens_per_cycle: float, length: int) -> float:
        """The speed-up if a cycle were its passes alone."""
        return tokens_per_cycle * self.verify(1) / self.cycle(length)

    def _verify(self, width: int) -> object:
        taps = tuple(self.drafter.tap_layers) if width > 1 else ()
        hidden, _ = self.verifier.step(self.ids[:, :width], self.cache, taps)
        return self.verifier.logits(hidden).argmax(-1)

    def _draft(self, length: int) -> object:
        self.drafter.extend(self.taps[:, : 1 + length], self.draft_cache)
        proposer = self.proposers[length]
        return proposer.ids(proposer.logits(proposer.hidden(self.draft_cache, self.ids[:, :1])).argmax(-1))


def measure_costs(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    context: int = 200,
    repeats: int = 9,
    batch_size: int = 1,
    widest: int | None = None,
) -> Costs:
    """Medians of interleaved passes of `batch_size` rows behind `context` tokens.

    Args:
        widest: tokens of the widest verifier pass, for trees; None: a block. Past the block every doubling is measured,
            and what lies between lies on a line.
    """
    size = drafter.block_size
    widths = list(range(1, size + 1))
    while widths[-1] < (widest or size):
        widths.append(min(2 * widths[-1], widest or size))
    parts = Parts(verifier, drafter, batch_size, context, widths, [size - 1])
    for _ in range(repeats):
        parts.measure()
    return Costs(parts.draft(size - 1), between(widths, [parts.verify(width) for width in widths]))


def between(widths: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Seconds of every width from 1 to the last, on lines between those measured; `widths` ascend from 1."""
    filled = [seconds[0]]
    for (low, high), (first, last) in zip(pairwise(widths), pairwise(seconds), strict=True):
        filled += [first + (last - first) * step / (high - low) for step in range(1, high - low + 1)]
    return filled
