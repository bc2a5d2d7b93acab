"""The rows that are answered together: prefill, cycle after cycle, and the next prompt where one has ended."""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from drafter.decode.answering import Answering
from drafter.decode.generation import Generation
from drafter.decode.schemes import Outcome, Scheme


@dataclass
class Listeners:
    """Who is told what, with a prompt's index: its new tokens or text after each cycle, its Generation at the end."""

    on_tokens: Callable[[int, list[int]], None] | None = None
    on_text: Callable[[int, str], None] | None = None
    on_end: Callable[[int, Generation], None] | None = None


class Slots:
    """Room for some rows at a time.

    Args:
        scheme: where their tokens come from.
        size: rows at a time.
        limit: longest answer.
        stop_ids: tokens that end an answer.
        fixed: passes are always over `size` rows, as CUDA graphs are; else over those that have not ended, once no
            more wait.
    """

    def __init__(
        self,
        scheme: Scheme,
        size: int,
        limit: int,
        stop_ids: Collection[int],
        listeners: Listeners,
        fixed: bool = False,
    ):
        self.scheme, self.limit, self.stop_ids, self.listeners = scheme, limit, stop_ids, listeners
        self.fixed = fixed
        self.rows: list[Answering | None] = [None] * size

    def run(self, waiting: deque[Answering]) -> None:
        """Answer all that wait; a finished row makes room for the next."""
        while waiting or any(self.rows):
            while waiting and (free := [slot for slot, row in enumerate(self.rows) if row is None]):
                self.prefill(free, waiting)
            if not waiting and not self.fixed:
                self.shrink()
            if any(self.rows):
                self.give(range(len(self.rows)), self.scheme.cycle(self.rows))

    def shrink(self) -> None:
        """Leave the slots of rows that have ended behind."""
        left = [slot for slot, row in enumerate(self.rows) if row is not None]
        if 0 < len(left) < len(self.rows):
            self.scheme.shrink(left)
            self.rows = [self.rows[slot] for slot in left]

    def prefill(self, free: list[int], waiting: deque[Answering]) -> None:
        """Take the next prompt, for all that wait with the same one and find room, up to their first tokens."""
        rows: list[Answering] = []
        while waiting and len(rows) < len(free) and (not rows or waiting[0].prompt == rows[0].prompt):
            rows.append(waiting.popleft())
            rows[-1].start()
        taken = free[: len(rows)]
        outcome = self.scheme.prefill(taken, rows)
        for slot, row in zip(taken, rows, strict=True):
            self.rows[slot] = row
        self.give(taken, outcome)

    def give(self, slots: Collection[int], outcome: Outcome) -> None:
        """Add tokens to the rows of `slots`, tell who listens, and free the slots of rows that end."""
        for slot, tokens, accepted in zip(slots, outcome.tokens, outcome.accepted, strict=True):
            row = self.rows[slot]
            if row is None:
                continue
            drafted, calls = outcome.drafted, outcome.verifier_calls
            added = row.append(tokens, accepted, self.limit, self.stop_ids, drafted, calls)
            if self.listeners.on_tokens is not None:
                self.listeners.on_tokens(row.index, added)
            if self.listeners.on_text is not None and row.transcript is not None and (text := row.transcript.news()):
                self.listeners.on_text(row.index, text)
            if row.ended:
                self.rows[slot] = None
                if self.listeners.on_end is not None:
                    self.listeners.on_end(row.index, row.result)
