"""Schemes, what a cycle does: drafts in a row (`chain`) or as a tree (`branches`), verified in one pass."""

from drafter.decode.schemes.base import Outcome, Scheme
from drafter.decode.schemes.branches import Branches
from drafter.decode.schemes.chain import Chain

__all__ = ["Branches", "Chain", "Outcome", "Scheme"]
