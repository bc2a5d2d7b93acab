"""The passes that a cycle is made of, alone: what a cycle would take if the host did nothing, and the best length."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

import torch

from drafter.decode import Costs
from drafter.decode.proposers import BlockDiffusionProposer
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.race import timed
from drafter.evaluation.walk import walk
from drafter.models import BlockDiffusionDrafter
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


def best_draft_length(costs: Costs, leading: Sequence[list[int]]) -> tuple[int, Cycles]:
    """The draft length with the highest ideal speed-up along known answers, and its walk.

    Args:
        leading: matches of whole blocks, as `leading_matches` finds them.
    """
    walks = {length: walk(leading, length) for length in range(1, len(costs.verify))}
    length = max(walks, key=lambda one: costs.ideal(walks[one].tokens_per_cycle, one))
    return length, walks[length]
