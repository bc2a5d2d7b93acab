"""The cycle, over the rows of a batch: caches, and the row in each of their slots."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from drafter.decode.deciding import Decider
from drafter.decode.drafting import Drafts, Proposer
from drafter.decode.generation import Generation
from drafter.decode.row import Row
from drafter.verifier import Verifier

PREFILL_CHUNK = 512


@dataclass
class Listeners:
    """Who is told what, with a prompt's index: its new tokens or text after each cycle, its Generation at the end."""

    on_tokens: Callable[[int, list[int]], None] | None = None
    on_text: Callable[[int, str], None] | None = None
    on_end: Callable[[int, Generation], None] | None = None


class Batch:
    """The state of one `generate` call.

    Args:
        proposer: None for plain decoding.
        size: rows at a time.
        capacity: slots of a row: the longest prompt, its answer and a block.
        limit: longest answer.
    """

    def __init__(
        self,
        verifier: Verifier,
        proposer: Proposer | None,
        decider: Decider,
        listeners: Listeners,
        size: int,
        capacity: int,
        limit: int,
    ):
        self.verifier, self.proposer, self.decider, self.listeners = verifier, proposer, decider, listeners
        self.limit, self.stop_ids = limit, set(verifier.stop_ids)
        self.tap_layers = () if proposer is None else proposer.tap_layers
        self.slots: list[Row | None] = [None] * size
        self.cache = verifier.new_cache(size, capacity)
        if proposer is not None:
            self.draft_cache = proposer.drafter.new_cache(size, capacity, verifier.kernel)

    def run(self, waiting: deque[Row]) -> None:
        """Answer all that wait; a finished row makes room for the next."""
        while waiting or any(self.slots):
            for slot, row in enumerate(self.slots):
                while self.slots[slot] is None and waiting:
                    row = waiting.popleft()
                    self.slots[slot] = row
                    self.prefill(slot, row)
            if any(self.slots):
                self.commit_lengths()
                self.cycle()

    def commit_lengths(self) -> None:
        lengths = [row.length if row else 0 for row in self.slots]
        self.cache.set_lengths(lengths)
        if self.proposer is not None:
            self.draft_cache.set_lengths(lengths)

    def prefill(self, slot: int, row: Row) -> None:
        """Run the prompt in chunks, fill both caches of the slot, and let the verifier choose the first token."""
        row.start()
        cache = self.cache.row(slot)
        draft_cache = self.draft_cache.row(slot) if self.proposer is not None else None
        for start in range(0, len(row.prompt), PREFILL_CHUNK):
            chunk = torch.tensor([row.prompt[start : start + PREFILL_CHUNK]], device=self.verifier.device)
            hidden, taps = self.verifier.step(chunk, cache, self.tap_layers)
            cache.set_lengths([start + chunk.shape[1]])
            if self.proposer is not None and draft_cache is not None and taps is not None:
                self.proposer.drafter.extend(taps, draft_cache)
                draft_cache.set_lengths([start + chunk.shape[1]])
        row.length = len(row.prompt)
        self.append(slot, row, [], self.decider.first(row, hidden[:, -1]), cycle=False)

    def cycle(self) -> None:
        """Draft, verify, decide, commit: every row gains at least one token."""
        anchors = torch.tensor(
            [[row.anchor if row else 0] for row in self.slots], device=self.verifier.device
        )  # [B, 1]
        drafts = Drafts(anchors[:, :0])
        noise = self.decider.noise_at(self.slots, 1 + (self.proposer.length if self.proposer else 0))  # [B, 1+G]
        if self.proposer is not None:
            drafts = self.decider.draft(self.proposer, anchors, self.draft_cache, noise)
        ids = torch.cat([anchors, drafts.ids], dim=1)  # [B, 1+G]
        hidden, taps = self.verifier.step(ids, self.cache, self.tap_layers)
        if self.proposer is not None and taps is not None:
            self.proposer.drafter.extend(taps, self.draft_cache)
        decision = self.decider.decide(drafts, hidden, noise)
        self.commit(drafts.ids, decision.accepted, decision.next_token)

    def commit(self, draft_ids: Tensor, accepted: Tensor, next_token: Tensor) -> None:
        """Give each row its accepted drafts and the verifier's token: the one place where the host waits."""
        found = torch.cat([accepted[:, None], next_token[:, None], draft_ids], dim=1).tolist()  # [B, 2+G]
        for slot, (row, (count, chosen, *drafted)) in enumerate(zip(self.slots, found, strict=True)):
            if row is not None:
                row.length += count + 1
                self.append(slot, row, drafted[:count], chosen)

    def append(self, slot: int, row: Row, drafted: list[int], chosen: int, cycle: bool = True) -> None:
        """Add tokens to a row, tell who listens, and free the slot at the end."""
        tokens = row.append(drafted, chosen, self.limit, self.stop_ids, cycle)
        if self.listeners.on_tokens is not None:
            self.listeners.on_tokens(row.index, tokens)
        if self.listeners.on_text is not None and row.transcript is not None and (text := row.transcript.news()):
            self.listeners.on_text(row.index, text)
        if row.ended:
            self.slots[slot] = None
            if self.listeners.on_end is not None:
                self.listeners.on_end(row.index, row.result)
