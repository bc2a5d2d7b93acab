"""Decoding: the drafter proposes a block, the verifier checks it in one pass, a rule decides how much of it stays.

A cycle is draft → verify → rule → commit. Both models keep preallocated caches with a length per row, so rejecting a
token is not advancing a length, and the rows of a batch advance by different amounts.
"""

from drafter.decode.costs import Costs
from drafter.decode.decoder import SpeculativeDecoder
from drafter.decode.free import FreeDecoder
from drafter.decode.generation import Generation, tokens_per_cycle

__all__ = ["Costs", "FreeDecoder", "Generation", "SpeculativeDecoder", "tokens_per_cycle"]
