"""Both models with their caches: what a cycle runs on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drafter.decode.drafting import Proposer
from drafter.verifier import Verifier

PREFILL_CHUNK = 512


class Pair:
    """A verifier and, unless it is None, a proposer.

    Args:
        size: rows at a time.
        capacity: slots of a row: the longest prompt, its answer, and what a cycle may write behind it.
    """

    def __init__(self, verifier: Verifier, proposer: Proposer | None, size: int, capacity: int):
        self.verifier, self.proposer = verifier, proposer
        self.tap_layers = () if proposer is None else proposer.tap_layers
        self.cache = verifier.new_cache(size, capacity, verifier.replayed)
        self.draft_cache = None
        if proposer is not None:
            self.draft_cache = proposer.drafter.new_cache(size, capacity, verifier.kernel, verifier.replayed)

    def set_lengths(self, lengths: list[int]) -> None:
        """Commit exactly `lengths` slots of each row in both caches."""
        self.cache.set_lengths(lengths)
        if self.draft_cache is not None:
            self.draft_cache.set_lengths(lengths)

    def verify(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The verifier's states [B, Q, D] of ids [B, Q], and the taps."""
        return self.verifier.step(ids, self.cache, self.tap_layers)

    def extend(self, taps: Tensor | None) -> None:
        """Give the drafter the taps of new tokens [B, Q, T*D]."""
        if self.proposer is not None and self.draft_cache is not None and taps is not None:
            self.proposer.drafter.extend(taps, self.draft_cache)

    def prefill(self, slots: Sequence[int], prompt: Sequence[int]) -> Tensor:
        """Run one prompt in chunks and give it to the rows of all `slots`; the verifier's state behind it, [1, D]."""
        cache = self.cache.row(slots[0])
        draft_cache = None if self.draft_cache is None else self.draft_cache.row(slots[0])
        for start in range(0, len(prompt), PREFILL_CHUNK):
            chunk = torch.tensor([prompt[start : start + PREFILL_CHUNK]], device=self.verifier.device)
            hidden, taps = self.verifier.step(chunk, cache, self.tap_layers)
            cache.set_lengths([start + chunk.shape[1]])
            if self.proposer is not None and draft_cache is not None and taps is not None:
                self.proposer.drafter.extend(taps, draft_cache)
                draft_cache.set_lengths([start + chunk.shape[1]])
        if len(slots) > 1:
            for whole in (self.cache, self.draft_cache):
                if whole is not None:
                    whole.copy_row(slots[0], list(slots[1:]), len(prompt))
        return hidden[:, -1]
