"""Kernels in C for bfloat16 on CPUs, where torch's operations are many or slow: compiled on first use, and optional.

Whoever calls asks `missing` first, and has a way in torch for where it gives a reason.
"""

from drafter.kernels.build import missing
from drafter.kernels.functions import WIDEST, add_norm, attend_cache, gate, rotate

__all__ = ["WIDEST", "add_norm", "attend_cache", "gate", "missing", "rotate"]
