"""What proposes tokens: whatever keeps a state of the rows, reads what they gain, and drafts behind their anchors."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from drafter.decode.sampling import Law
from drafter.verification import Rule
from drafter.verification.base import inverse_cdf


@dataclass(frozen=True)
class Proposal:
    """What one cycle proposes.

    Attributes:
        ids: [B, G].
        probs: the laws that they were drawn from, [B, G, V]; None where nobody asked for them.
        hidden: the drafter's states from which these laws come, [B, G, D]; None where it has none.
        confidences: the highest probability of each slot's law, [B, G]; None where nobody asked for them.
    """

    ids: Tensor
    probs: Tensor | None = None
    hidden: Tensor | None = None
    confidences: Tensor | None = None

    def first(self, length: int) -> "Proposal":
        """The first `length` drafts of each row."""
        probs = None if self.probs is None else self.probs[:, :length]
        hidden = None if self.hidden is None else self.hidden[:, :length]
        return Proposal(self.ids[:, :length], probs, hidden)


class State(Protocol):
    """What a proposer keeps of the rows of a batch."""

    def set_lengths(self, lengths: list[int]) -> None:
        """Each row has so many tokens before its anchor; what was kept behind them is forgotten."""

    def row(self, index: int) -> Any:
        """An empty state of one row, on the memory of row `index`: for reading a prompt into that row alone."""

    def copy_row(self, source: int, rows: list[int], length: int) -> None:
        """Give `rows` the first `length` tokens of row `source`."""

    def shrink(self, rows: list[int]) -> None:
        """Go on with `rows` alone, which ascend; it is a state of so many from now on."""


class Proposer(Protocol):
    """A drafter beside a verifier, as the decoder asks it.

    A cycle is `state.set_lengths` → `propose` → the verifier's pass and the decision → `commit`. The decoder never
    waits for the device in between, so neither may a proposer.

    Attributes:
        tap_layers: the verifier's layers whose outputs it reads; empty where it reads none.
        length: tokens proposed per cycle.
    """

    tap_layers: tuple[int, ...]
    length: int

    def check_rule(self, rule: Rule | None) -> Rule | None:
        """The rule for its drafts, given the one that is asked for; None leaves it to the decoder.

        Raises:
            ValueError: that rule can't judge them.
        """
        return rule

    def check_law(self, law: Law) -> None:
        """Raise a ValueError unless it can draft by this law."""

    def new_state(self, batch: int, tokens: int) -> Any:
        """An empty state for `batch` rows of at most `tokens` tokens, with room for what a proposal writes behind."""

    def read(self, state: Any, ids: Tensor, taps: Tensor | None) -> None:
        """Take in the next tokens of a prompt, ids [B, Q] and taps [B, Q, T*D], behind the lengths that are set."""

    def propose(
        self,
        state: Any,
        anchors: Tensor,
        law: Law,
        noise: Tensor | None = None,
        *,
        laws: bool = False,
        confidences: bool = False,
    ) -> Proposal:
        """Draft behind the anchors [B, 1].

        Args:
            law: temperature, top-p and top-k of the drafts.
            noise: numbers in [0, 1) that choose each draft from its law, [B, G]; None for the likeliest tokens.
            laws, confidences: whether they are wanted, too.
        """

    def commit(self, state: Any, ids: Tensor, taps: Tensor | None, accepted: Tensor) -> None:
        """Take in what a cycle decided: row b gained ids[b, :accepted[b] + 1], its anchor first.

        Args:
            ids: the anchor and the drafts that were verified, [B, 1 + G']; of a tree, those on the path.
            taps: of these tokens, [B, 1 + G', T*D].
            accepted: [B], on the device; the host learns of it later, and tells by `state.set_lengths`.
        """


@runtime_checkable
class SlotProposer(Proposer, Protocol):
    """One whose slots know nothing of each other, so that a tree can be grown from their laws.

    Attributes:
        choices: how many tokens may be proposed.
    """

    choices: int

    def scores(self, state: Any, anchors: Tensor, law: Law) -> Tensor:
        """Log-probabilities of the slots behind the anchors [B, 1] at the law's temperature, [B, G, choices]."""

    def ids(self, places: Tensor) -> Tensor:
        """Token ids of places among what may be proposed."""


def choose_ids(laws: Tensor, noise: Tensor | None) -> Tensor:
    """Ids from laws [..., V]: those that the noise [...] picks, or the likeliest."""
    return laws.argmax(-1) if noise is None else inverse_cdf(laws, noise)
