"""A cycle with drafts in a row: draft → verify → rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drafter.decode.costs import Costs, Survival
from drafter.decode.deciding import Decider
from drafter.decode.drafting import Drafts
from drafter.decode.pair import Pair
from drafter.decode.row import Row


@dataclass(frozen=True)
class Outcome:
    """What a cycle decided for each row of the batch.

    Attributes:
        kept: the accepted drafts of each row.
        chosen: the verifier's own token behind them.
        drafted: tokens that were proposed to each row.
    """

    kept: list[list[int]]
    chosen: list[int]
    drafted: int


class Chain:
    """Proposes one block per row.

    Args:
        limit: longest answer.
        costs: of passes at this batch size, to choose the draft length of each cycle; None for the whole length.
    """

    def __init__(self, pair: Pair, decider: Decider, limit: int, costs: Costs | None = None):
        self.pair, self.decider, self.limit, self.costs = pair, decider, limit, costs
        self.length = 0 if pair.proposer is None else pair.proposer.length
        self.survival = Survival()

    def cycle(self, rows: Sequence[Row | None], anchors: Tensor) -> Outcome:
        """Draft behind the anchors [B, 1] of `rows`, verify, decide; nothing is committed."""
        pair = self.pair
        drafts, noise = Drafts(anchors[:, :0]), self.decider.noise_at(rows, self.length + 1)  # [B, 1+G]
        confidences: list[list[float]] = []
        if pair.proposer is not None and pair.draft_cache is not None:
            drafts = self.decider.draft(pair.proposer, anchors, pair.draft_cache, noise, self.costs is not None)
            if self.costs is not None and drafts.confidences is not None:
                confidences = drafts.confidences.tolist()
                drafts = drafts.first(self.choose(rows, confidences, self.costs))
        length = drafts.ids.shape[1]
        hidden, taps = pair.verify(torch.cat([anchors, drafts.ids], dim=1))  # [B, 1+G, D]
        pair.extend(taps)
        decision = self.decider.decide(drafts, hidden, None if noise is None else noise[:, : length + 1])
        found = torch.cat([decision.accepted[:, None], decision.next_token[:, None], drafts.ids], dim=1)
        outcome = Outcome([], [], length)
        for slot, (accepted, chosen, *ids) in enumerate(found.tolist()):  # the one place where the host waits
            outcome.kept.append(ids[:accepted])
            outcome.chosen.append(chosen)
            if confidences and rows[slot] is not None:
                self.survival.learn(confidences[slot], accepted, length)
        return outcome

    def choose(self, rows: Sequence[Row | None], confidences: list[list[float]], costs: Costs) -> int:
        """The draft length with the most expected tokens per second, one for the batch."""
        expected = [
            self.survival.expected(confidence, self.limit - len(row.result.token_ids))
            for row, confidence in zip(rows, confidences, strict=True)
            if row is not None
        ]
        return costs.best([sum(tokens) for tokens in zip(*expected, strict=True)])
