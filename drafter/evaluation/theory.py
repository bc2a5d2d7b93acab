"""What speculative decoding should gain, by arithmetic: Leviathan's theory (arXiv:2211.17192, section 3).

alpha is the acceptance rate, the chance 1 - TV(p, q) that a draft is kept, taken as the same for every slot and
independent; cost is the time of one draft step over that of one verifier step.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul

from drafter.verification.base import require_fraction


def expected_tokens(acceptance_rate: float, draft_length: int) -> float:
    """Tokens of a cycle, 1 + alpha + ... + alpha^G = (1 - alpha^(G+1)) / (1 - alpha).

    Raises:
        ValueError: alpha is no fraction, or the draft length is negative.
    Source: arXiv:2211.17192, eq. 1.
    """
    require_fraction("acceptance_rate", acceptance_rate)
    if draft_length < 0:
        raise ValueError(f"draft_length={draft_length}: must be >= 0")
    return sum(acceptance_rate**kept for kept in range(draft_length + 1))


def expected_tokens_by_slot(acceptance_rates: Sequence[float]) -> float:
    """Tokens of a cycle whose slots have rates of their own, those before being kept: 1 + the sum of the products.

    Source: arXiv:2604.07622, theorem 2, with the bonus token.
    """
    for rate in acceptance_rates:
        require_fraction("acceptance_rate", rate)
    return 1 + sum(accumulate(acceptance_rates, mul))


def speedup(acceptance_rate: float, draft_length: int, cost: float, *, verify: float = 1.0) -> float:
    """Speed over plain decoding, tokens of a cycle / (G cost + verify).

    Args:
        cost: a draft step over a verifier step; of a drafter that proposes a block in one pass, that pass over a
            verifier step and over G.
        verify: a pass over G + 1 tokens over one over a single token; 1 in the source.
    Source: arXiv:2211.17192, theorem 3.8.
    """
    return expected_tokens(acceptance_rate, draft_length) / (draft_length * cost + verify)


def operations(acceptance_rate: float, draft_length: int, cost: float) -> float:
    """Arithmetic per token over plain decoding's, (G c + G + 1) / tokens of a cycle; it grows.

    Args:
        cost: operations of a draft step over those of a verifier step.
    Source: arXiv:2211.17192, theorem 3.11.
    """
    return (draft_length * cost + draft_length + 1) / expected_tokens(acceptance_rate, draft_length)


def length_in_theory(
    acceptance_rate: float, cost: float, longest: int, verify: Callable[[int], float] = lambda draft_length: 1.0
) -> int:
    """The draft length of the highest speed-up, from 0, which is plain decoding, to `longest`; the least of equals.

    Args:
        verify: draft length -> a pass over it and one more, over a pass over a single token.
    """
    return max(range(longest + 1), key=lambda length: speedup(acceptance_rate, length, cost, verify=verify(length)))
