"""Proposing by a causal language model: token after token, a pass each.

It lags by a token: what it wrote last it never read, so that a cycle begins by reading two tokens, the one before the
anchor and the anchor, whether or not every draft was kept. All rows then do the same, however many drafts each kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, inf

from drafter.attention import KVCache
from drafter.decode.proposers.base import Proposal, Proposer, choose_ids
from drafter.decode.sampling import Law, likeliest
from drafter.models.causal import CausalDrafter
from drafter.verifier import Verifier


@dataclass
class Lagging:
    """The cache of all tokens but the `lag` last before each anchor, and the last of them, [B, 1]."""

    cache: KVCache
    last: Tensor
    lag: int = 1

    def set_lengths(self, lengths: list[int]) -> None:
        self.cache.set_lengths([max(0, length - self.lag) for length in lengths])

    def row(self, index: int) -> "Lagging":
        return Lagging(self.cache.row(index), self.last[index : index + 1], lag=0)  # a prompt is read as it comes

    def copy_row(self, source: int, rows: list[int], length: int) -> None:
        self.cache.copy_row(source, rows, length)
        self.last[rows] = self.last[source].clone()

    def shrink(self, rows: list[int]) -> None:
        self.cache.shrink(rows)
        self.last = self.last[rows]


class CausalProposer(Proposer):
    """A causal drafter beside a verifier.

    Args:
        length: tokens proposed per cycle.
    """

    tap_layers: tuple[int, ...] = ()

    def __init__(self, verifier: Verifier, drafter: CausalDrafter, length: int):
        self.model, self.length = drafter.model, length
        self.vocabulary, self.known = len(verifier.head), len(drafter.model.head)

    def new_state(self, batch: int, tokens: int) -> Lagging:
        cache = self.model.new_cache(batch, tokens, self.model.replayed, 1 + self.length)
        return Lagging(cache, torch.zeros(batch, 1, dtype=torch.long, device=self.model.device))

    def read(self, state: Lagging, ids: Tensor, taps: Tensor | None) -> None:
        self.model.step(self.own(ids), state.cache)
        state.last.copy_(ids[:, -1:])

    def commit(self, state: Lagging, ids: Tensor, taps: Tensor | None, accepted: Tensor) -> None:
        state.last.copy_(ids.gather(1, accepted[:, None]))  # in the cache are all drafts but the last already

    def propose(
        self,
        state: Lagging,
        anchors: Tensor,
        law: Law,
        noise: Tensor | None = None,
        *,
        laws: bool = False,
        confidences: bool = False,
    ) -> Proposal:
        ids, drafts, probs, hiddens, sure = torch.cat([state.last, anchors], dim=1), [], [], [], []
        for slot in range(self.length):
            hidden, _ = self.model.step(self.own(ids), state.cache)  # [B, 2 or 1, D]
            state.cache.advance(ids.shape[1])
            hiddens.append(hidden[:, -1].clone())  # a graph writes the next one to the same place
            logits = self.whole(self.model.logits(hiddens[-1]))  # [B, V]
            if noise is None and not laws:
                ids = likeliest(logits)[:, None]  # [B, 1]
                one = law.scores(logits).amax(-1).exp() if confidences else None  # [B]
            else:
                probs.append(law(logits))  # [B, V]
                ids = choose_ids(probs[-1], None if noise is None else noise[:, slot])[:, None]
                one = probs[-1].amax(-1) if confidences else None
            drafts.append(ids)
            sure.append(one)
        state.cache.advance(-1 - self.length)
        return Proposal(
            torch.cat(drafts, dim=1),
            torch.stack(probs, dim=1) if laws else None,
            torch.stack(hiddens, dim=1),
            torch.stack([one for one in sure if one is not None], dim=1) if confidences else None,
        )

    def own(self, ids: Tensor) -> Tensor:
        """Ids that the drafter's embedding has; what the verifier's has beyond them is padding, no token."""
        return ids if self.known >= self.vocabulary else ids.clamp(max=self.known - 1)

    def whole(self, logits: Tensor) -> Tensor:
        """Logits [B, V'] over the verifier's ids, [B, V]: what the drafter lacks has no mass."""
        if self.known >= self.vocabulary:
            return logits[:, : self.vocabulary]
        return torch.nn.functional.pad(logits, (0, self.vocabulary - self.known), value=-inf)
