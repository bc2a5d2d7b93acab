"""The passes that a cycle is made of, alone: what a cycle would take if the host did nothing, and the best length."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

import torch

from drafter.decode import Costs
from drafter.decode.proposers import make_proposer
from drafter.decode.sampling import Law, likeliest
from drafter.evaluation.race import timed
from drafter.evaluation.walk import walk
from drafter.models import Drafter
from drafter.verifier import Verifier


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
        drafter: Drafter,
        batch: int,
        context: int,
        widths: Sequence[int],
        lengths: Sequence[int],
    ):
        self.verifier = verifier
        self.proposers = {length: make_proposer(verifier, drafter, length) for length in lengths}
        longest = self.proposers[max(lengths)] if lengths else None
        self.tap_layers = longest.tap_layers if longest else ()
        widest = max(1 + max(lengths, default=0), *widths)
        self.cache = verifier.new_cache(batch, context, verifier.replayed, widest)
        self.state = longest.new_state(batch, context + widest) if longest else None
        for kept in (self.cache, self.state):
            if kept is not None:
                kept.set_lengths([context] * batch)
        self.ids = torch.zeros(batch, widest, dtype=torch.long, device=verifier.device)
        self.taps = self.verifier.step(self.ids, self.cache, self.tap_layers)[1]
        self.drafts: dict[int, list[float]] = {length: [] for length in self.proposers}
        self.verifications: dict[int, list[float]] = {width: [] for width in sorted({1, *widths})}
        self.measure()  # warm up
        for taken in (*self.drafts.values(), *self.verifications.values()):
            taken.clear()

    @torch.inference_mode()
    def measure(self) -> None:
        """Take each pass once more, behind one that is not timed: what ran before would be the first one's burden."""
        self._verify(1)
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
        hidden, _ = self.verifier.step(self.ids[:, :width], self.cache, self.tap_layers if width > 1 else ())
        return likeliest(self.verifier.logits(hidden))

    def _draft(self, length: int) -> object:
        proposer, ids = self.proposers[length], self.ids[:, : 1 + length]
        taps = None if self.taps is None else self.taps[:, : 1 + length]
        proposer.commit(self.state, ids, taps, torch.zeros_like(ids[:, 0]))
        return proposer.propose(self.state, ids[:, :1], Law(temperature=0)).ids


def measure_costs(
    verifier: Verifier,
    drafter: Drafter,
    context: int = 200,
    repeats: int = 9,
    batch_size: int = 1,
    widest: int | None = None,
) -> Costs:
    """Medians of interleaved passes of `batch_size` rows behind `context` tokens.

    Args:
        widest: tokens of the widest verifier pass, for trees; None: the anchor and the drafter's usual drafts. Past
            these every doubling is measured, and what lies between lies on a line.
    """
    size = 1 + drafter.draft_length
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


def best_draft_length(costs: Costs, leading: Sequence[list[int]]) -> int:
    """The draft length with the highest ideal speed-up along known answers.

    Args:
        leading: matches of whole blocks, as `leading_matches` finds them.
    """
    return max(
        range(1, len(costs.verify)), key=lambda length: costs.ideal(walk(leading, length).tokens_per_cycle, length)
    )
