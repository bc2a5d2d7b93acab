"""Both models with what they keep of the rows: what a cycle runs on."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drafter.decode.proposers import Proposer
from drafter.verifier import Verifier

PREFILL_CHUNK = 512


class Pair:
    """A verifier and, unless it is None, a proposer.

    Args:
        size: rows at a time.
        tokens: of the longest prompt and its answer.
        width: tokens of the widest pass of the verifier behind them.
    """

    def __init__(self, verifier: Verifier, proposer: Proposer | None, size: int, tokens: int, width: int):
        self.verifier, self.proposer, self.size, self.tokens = verifier, proposer, size, tokens
        self.tap_layers = () if proposer is None else proposer.tap_layers
        self.cache = verifier.new_cache(size, tokens, verifier.replayed, width)
        self.state: Any = None if proposer is None else proposer.new_state(size, tokens)

    def set_lengths(self, lengths: list[int]) -> None:
        """Commit exactly `lengths` tokens of each row in both models."""
        self.cache.set_lengths(lengths)
        if self.state is not None:
            self.state.set_lengths(lengths)

    def shrink(self, rows: list[int]) -> None:
        """Go on with `rows` alone, which ascend."""
        for whole in (self.cache, self.state):
            if whole is not None:
                whole.shrink(rows)
        self.size = len(rows)

    def verify(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The verifier's states [B, Q, D] of ids [B, Q], and the taps."""
        return self.verifier.step(ids, self.cache, self.tap_layers)

    def commit(self, ids: Tensor, taps: Tensor | None, accepted: Tensor) -> None:
        """Tell the proposer what was decided; see `Proposer.commit`."""
        if self.proposer is not None:
            self.proposer.commit(self.state, ids, taps, accepted)

    def prefill(self, slots: Sequence[int], prompt: Sequence[int]) -> Tensor:
        """Run one prompt in chunks and give it to the rows of all `slots`; the verifier's state behind it, [1, D]."""
        cache = self.cache.row(slots[0])
        state = None if self.state is None else self.state.row(slots[0])
        for start in range(0, len(prompt), PREFILL_CHUNK):
            chunk = torch.tensor([prompt[start : start + PREFILL_CHUNK]], device=self.verifier.device)
            hidden, taps = self.verifier.step(chunk, cache, self.tap_layers)
            cache.set_lengths([start + chunk.shape[1]])
            if self.proposer is not None and state is not None:
                self.proposer.read(state, chunk, taps)
                state.set_lengths([start + chunk.shape[1]])
        if len(slots) > 1:
            for whole in (self.cache, self.state):
                if whole is not None:
                    whole.copy_row(slots[0], list(slots[1:]), len(prompt))
        return hidden[:, -1]
