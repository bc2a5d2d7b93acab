"""Ways of decoding against each other and against their parts: same prompts, same process, taking turns.

A slow minute of the machine then slows all of them. The time up to the first token is taken apart, since the prefill is
the same whatever decodes after it.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from drafter.decode import Generation, tokens_per_cycle
from drafter.decode.drafting import Proposer
from drafter.evaluate import Costs
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
    """The passes that a cycle is made of, alone: a draft, and the verifier over 1 and over 1 + draft length tokens.

    Args:
        batch: rows of a pass.
        context: tokens that every row has committed.
        lengths: draft lengths; 0 is plain decoding.
    """

    @torch.inference_mode()
    def __init__(
        self, verifier: Verifier, drafter: BlockDiffusionDrafter, batch: int, context: int, lengths: Sequence[int]
    ):
        self.verifier, self.drafter, self.lengths = verifier, drafter, sorted({0, *lengths})
        size = drafter.block_size
        self.cache = verifier.new_cache(batch, context + size, verifier.replayed)
        self.draft_cache = drafter.new_cache(batch, context + size, verifier.kernel, verifier.replayed)
        for cache in (self.cache, self.draft_cache):
            cache.set_lengths([context] * batch)
        self.ids = torch.full((batch, size), drafter.mask_token_id, device=verifier.device)
        self.taps = torch.zeros(batch, size, drafter.fc.in_features, dtype=verifier.dtype, device=verifier.device)
        self.proposers = {length: Proposer(verifier, drafter, length) for length in self.lengths if length}
        self.drafts: dict[int, list[float]] = {length: [] for length in self.proposers}
        self.verifications: dict[int, list[float]] = {length: [] for length in self.lengths}
        self.measure()  # warm up
        for kept in (*self.drafts.values(), *self.verifications.values()):
            kept.clear()

    @torch.inference_mode()
    def measure(self) -> None:
        """Take each pass once more."""
        for length in self.lengths:
            spent, _ = timed(self.verifier.device, self._verify, length)
            self.verifications[length].append(spent)
        for length in self.proposers:
            spent, _ = timed(self.verifier.device, self._draft, length)
            self.drafts[length].append(spent)

    def costs(self, length: int) -> Costs:
        """Medians; the verifier's widths that were not measured are NaN."""
        verify = [math.nan] * (1 + max(self.lengths))
        for one, kept in self.verifications.items():
            verify[one] = statistics.median(kept)
        return Costs(statistics.median(self.drafts[length]) if length else 0.0, verify)

    def _verify(self, length: int) -> object:
        taps = tuple(self.drafter.tap_layers) if length else ()
        hidden, _ = self.verifier.step(self.ids[:, : 1 + length], self.cache, taps)
        return self.verifier.logits(hidden).argmax(-1)

    def _draft(self, length: int) -> object:
        self.drafter.extend(self.taps[:, : 1 + length], self.draft_cache)
        proposer = self.proposers[length]
        return proposer.ids(proposer.logits(proposer.hidden(self.ids[:, :1], self.draft_cache)).argmax(-1))
