"""Proposers, one file per kind of drafter; `base` says what the decoder asks of them."""

from collections.abc import Callable
from typing import Any

from drafter.decode.proposers.base import Proposal, Proposer, SlotProposer, State
from drafter.decode.proposers.block_diffusion import BlockDiffusionProposer
from drafter.decode.proposers.causal import CausalProposer
from drafter.decode.proposers.push_forward import PushForwardProposer
from drafter.models import BlockDiffusionDrafter, CausalDrafter, PushForwardModel
from drafter.verifier import Verifier

__all__ = [
    "PROPOSERS",
    "BlockDiffusionProposer",
    "CausalProposer",
    "Proposal",
    "Proposer",
    "PushForwardProposer",
    "SlotProposer",
    "State",
    "make_proposer",
]

PROPOSERS: dict[type, Callable[[Verifier, Any, int], Proposer]] = {
    BlockDiffusionDrafter: BlockDiffusionProposer,
    CausalDrafter: CausalProposer,
    PushForwardModel: PushForwardProposer,
}
"""The class of a drafter → what makes its proposer of (verifier, drafter, draft length)."""


def make_proposer(verifier: Verifier, drafter: Any, length: int) -> Proposer:
    """The proposer of a drafter beside a verifier.

    Raises:
        ValueError: no proposer is known for drafters of that class.
    """
    for kind, make in PROPOSERS.items():
        if isinstance(drafter, kind):
            return make(verifier, drafter, length)
    known = ", ".join(kind.__name__ for kind in PROPOSERS)
    raise ValueError(f"drafter: a {type(drafter).__name__} proposes nothing; give one of {known}")
