"""What every drafter is, whatever it is made of."""

from typing import Protocol

from drafter.verifier import Verifier


class Drafter(Protocol):
    """A model that drafts beside a verifier; how, says its proposer (`drafter.decode.proposers`)."""

    @property
    def draft_length(self) -> int:
        """Tokens proposed per cycle unless another number is asked for."""

    @property
    def longest(self) -> int:
        """Tokens that can be proposed at most."""

    def check_verifier(self, verifier: Verifier) -> None:
        """Raise a ValueError unless it can draft for this verifier."""
