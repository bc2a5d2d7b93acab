"""What a cycle is: how rows that wait for tokens get some."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from drafter.decode.answering import Answering
from drafter.decode.deciding import Decider
from drafter.decode.pair import Pair


@dataclass(frozen=True)
class Outcome:
    """What a cycle, or a prefill, gives each of its rows.

    Attributes:
        tokens: new ones of each row; the last of them is the row's next anchor.
        accepted: how many of them were drafts.
        drafted: tokens that were proposed to each row; None in a prefill.
        verifier_calls: passes of the verifier that it took.
    """

    tokens: list[list[int]]
    accepted: list[int]
    drafted: int | None
    verifier_calls: int = 1


class Scheme(Protocol):
    """A way to answer the rows in the slots of a batch."""

    def prefill(self, slots: Sequence[int], rows: Sequence[Answering]) -> Outcome:
        """Read the prompt that `rows` share into their slots, up to their first tokens."""

    def cycle(self, rows: Sequence[Answering | None]) -> Outcome:
        """At least one more token for the row in each slot; what empty slots (None) get means nothing."""

    def shrink(self, slots: list[int]) -> None:
        """Go on with the rows in `slots` alone, which ascend; they become slots 0, 1, ..."""


class Verified:
    """What all schemes with a verifier share: its prefill, and where a cycle begins."""

    def __init__(self, pair: Pair, decider: Decider):
        self.pair, self.decider = pair, decider

    def prefill(self, slots: Sequence[int], rows: Sequence[Answering]) -> Outcome:
        hidden = self.pair.prefill(slots, rows[0].prompt)  # [1, D]
        return Outcome([[token] for token in self.decider.first(rows, hidden)], [0] * len(rows), None)

    def shrink(self, slots: list[int]) -> None:
        self.pair.shrink(slots)

    def begin(self, rows: Sequence[Answering | None]) -> Tensor:
        """Set all lengths, and go on to new random numbers; the anchors, [B, 1]."""
        self.decider.begin(rows)
        self.pair.set_lengths([row.length if row else 0 for row in rows])
        return torch.tensor([[row.anchor if row else 0] for row in rows], device=self.pair.verifier.device)
