"""What every drafter is, whatever it is made of, and which kind a directory holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from drafter.verifier import Verifier


@dataclass(frozen=True)
class Outline:
    """What is known of a drafter before its weights are read.

    Attributes:
        draft_length, longest: see `Drafter`.
        trees: whether its slots know nothing of each other, so that trees can be grown from them.
        made_for: facts of the verifier that it was made for, as far as it is bound to one.
    """

    draft_length: int
    longest: int
    trees: bool = False
    made_for: dict[str, int] = field(default_factory=dict)


class Drafter(Protocol):
    """A model that drafts beside a verifier; how, says its proposer (`drafter.decode.proposers`)."""

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether a `config.json` is that of such a drafter, by its `architectures`."""

    @classmethod
    def outline(cls, source: str) -> Outline:
        """Read no more than its config.

        Raises:
            ValueError: it can't be read.
        """

    @classmethod
    def beside(cls, source: str, verifier: Verifier) -> "Drafter":
        """Load one in the dtype and on the device of the verifier that it will draft for.

        Raises:
            ValueError: it can't be read, or was made for another verifier.
        """

    @property
    def draft_length(self) -> int:
        """Tokens proposed per cycle unless another number is asked for."""

    @property
    def longest(self) -> int:
        """Tokens that can be proposed at most."""

    @property
    def hidden_size(self) -> int:
        """Width of the states that its laws come from."""

    @property
    def context_length(self) -> int | None:
        """Tokens of a row that it reads at most; None for as many as the verifier."""

    def check_verifier(self, verifier: Verifier) -> None:
        """Raise a ValueError unless it can draft for this verifier."""
