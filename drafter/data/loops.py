"""Answers that repeat themselves up to their end, as small verifiers' greedy answers do: copying is all they teach."""

from collections.abc import Sequence

ROUNDS = 3


def before_repeating(ids: Sequence[int]) -> int:
    """How many tokens of an answer stand before it only repeats itself; all of them where it does not end in a loop.

    It ends in a loop of p tokens where its last 3 p tokens are the same p thrice. The first round is no repetition, nor
    is what leads to it. Of several p the shortest counts.
    """
    for period in range(1, len(ids) // ROUNDS + 1):
        at = len(ids) - 1
        while at >= period and ids[at] == ids[at - period]:
            at -= 1
        if len(ids) - 1 - at >= (ROUNDS - 1) * period:
            return at + 1
    return len(ids)


def cut_loop(ids: Sequence[int]) -> list[int]:
    """An answer without the repetitions that it ends in: an anchor and a token behind it at least."""
    return list(ids[: max(2, before_repeating(ids))])
