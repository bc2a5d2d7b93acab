"""The rows of a batch: prefill, cycle after cycle, commit, and the next prompt where one has ended."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from drafter.decode.branches import Branches
from drafter.decode.chain import Chain
from drafter.decode.deciding import Decider
from drafter.decode.generation import Generation
from drafter.decode.pair import Pair
from drafter.decode.row import Row


@dataclass
class Listeners:
    """Who is told what, with a prompt's index: its new tokens or text after each cycle, its Generation at the end."""

    on_tokens: Callable[[int, list[int]], None] | None = None
    on_text: Callable[[int, str], None] | None = None
    on_end: Callable[[int, Generation], None] | None = None


class Batch:
    """The rows that are answered together.

    Args:
        scheme: what a cycle does.
        size: rows at a time.
        limit: longest answer.
    """

    def __init__(
        self, pair: Pair, decider: Decider, scheme: Chain | Branches, listeners: Listeners, size: int, limit: int
    ):
        self.pair, self.decider, self.scheme, self.listeners, self.limit = pair, decider, scheme, listeners, limit
        self.stop_ids = set(pair.verifier.stop_ids)
        self.slots: list[Row | None] = [None] * size

    def run(self, waiting: deque[Row]) -> None:
        """Answer all that wait; a finished row makes room for the next."""
        while waiting or any(self.slots):
            while waiting and (free := [slot for slot, row in enumerate(self.slots) if row is None]):
                self.prefill(free, waiting)
            if any(self.slots):
                self.cycle()

    def prefill(self, free: list[int], waiting: deque[Row]) -> None:
        """Take the next prompt, for all that wait with the same one and find room, up to their first tokens."""
        rows: list[Row] = []
        while waiting and len(rows) < len(free) and (not rows or waiting[0].prompt == rows[0].prompt):
            rows.append(waiting.popleft())
            rows[-1].start()
        hidden = self.pair.prefill(free[: len(rows)], rows[0].prompt)
        for slot, row, first in zip(free, rows, self.decider.first(rows, hidden), strict=False):
            self.slots[slot], row.length = row, len(row.prompt)
            self.append(slot, row, [], first)

    def cycle(self) -> None:
        """Draft, verify, decide, commit: every row gains at least one token."""
        self.pair.set_lengths([row.length if row else 0 for row in self.slots])
        anchors = [[row.anchor if row else 0] for row in self.slots]
        found = self.scheme.cycle(self.slots, torch.tensor(anchors, device=self.pair.verifier.device))
        for slot, (row, kept, chosen) in enumerate(zip(self.slots, found.kept, found.chosen, strict=True)):
            if row is not None:
                row.length += len(kept) + 1
                self.append(slot, row, kept, chosen, found.drafted)

    def append(self, slot: int, row: Row, kept: list[int], chosen: int, drafted: int | None = None) -> None:
        """Add tokens to a row, tell who listens, and free the slot at the end."""
        tokens = row.append(kept, chosen, self.limit, self.stop_ids, drafted)
        if self.listeners.on_tokens is not None:
            self.listeners.on_tokens(row.index, tokens)
        if self.listeners.on_text is not None and row.transcript is not None and (text := row.transcript.news()):
            self.listeners.on_text(row.index, text)
        if row.ended:
            self.slots[slot] = None
            if self.listeners.on_end is not None:
                self.listeners.on_end(row.index, row.result)
