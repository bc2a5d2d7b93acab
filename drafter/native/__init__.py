"""Loops in C for bfloat16 on CPUs, where torch's operations are many or slow: compiled on first use, and optional.

Whoever calls asks `missing` first, and has a way in torch for where it gives a reason.
"""

from drafter.native.build import missing
from drafter.native.functions import WIDEST, add_norm, attend, gate, rotate

__all__ = ["WIDEST", "add_norm", "attend", "gate", "missing", "rotate"]
