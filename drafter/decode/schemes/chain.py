"""A cycle with drafts in a row: propose → verify → rule → commit."""

from collections.abc import Sequence

import torch

from drafter.decode.answering import Answering
from drafter.decode.costs import Costs, Survival
from drafter.decode.deciding import Decider
from drafter.decode.pair import Pair
from drafter.decode.proposers import Proposal
from drafter.decode.schemes.base import Outcome, Verified


class Chain(Verified):
    """Proposes one block per row; without a proposer, plain decoding.

    Args:
        limit: longest answer.
        costs: of passes at this batch size, to choose the draft length of each cycle; None for the whole length.
    """

    def __init__(self, pair: Pair, decider: Decider, limit: int, costs: Costs | None = None):
        super().__init__(pair, decider)
        self.limit, self.costs = limit, costs
        self.length = 0 if pair.proposer is None else pair.proposer.length
        self.survival = Survival()

    def cycle(self, rows: Sequence[Answering | None]) -> Outcome:
        pair, anchors = self.pair, self.begin(rows)
        proposal, noise = Proposal(anchors[:, :0]), self.decider.noise_at(rows, self.length + 1)  # [B, 1+G]
        confidences: list[list[float]] = []
        if pair.proposer is not None:
            proposal = self.decider.draft(pair.proposer, pair.state, anchors, noise, self.costs is not None)
            if self.costs is not None and proposal.confidences is not None:
                confidences = proposal.confidences.tolist()
                proposal = proposal.first(self.choose(rows, confidences, self.costs))
        length = proposal.ids.shape[1]
        ids = torch.cat([anchors, proposal.ids], dim=1)  # [B, 1+G]
        hidden, taps = pair.verify(ids)  # [B, 1+G, D]
        decision = self.decider.decide(proposal, hidden, None if noise is None else noise[:, : length + 1])
        pair.commit(ids, taps, decision.accepted)
        found = torch.cat([decision.accepted[:, None], decision.next_token[:, None], proposal.ids], dim=1)
        outcome = Outcome([], [], length)
        for slot, (accepted, chosen, *drafts) in enumerate(found.tolist()):  # the one place where the host waits
            outcome.tokens.append([*drafts[:accepted], chosen])
            outcome.accepted.append(accepted)
            if confidences and rows[slot] is not None:
                self.survival.learn(confidences[slot], accepted, length)
        return outcome

    def choose(self, rows: Sequence[Answering | None], confidences: list[list[float]], costs: Costs) -> int:
        """The draft length with the most expected tokens per second, one for the batch."""
        expected = [
            self.survival.expected(confidence, self.limit - len(row.result.token_ids))
            for row, confidence in zip(rows, confidences, strict=True)
            if row is not None
        ]
        return costs.best([sum(tokens) for tokens in zip(*expected, strict=True)])
