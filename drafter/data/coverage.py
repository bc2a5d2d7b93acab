"""Anchor coverage: how many of the supervised tokens some slot predicts in an epoch. The rest teach nothing in it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import comb

from drafter.data.rows import Row, Span


@dataclass
class Coverage:
    """Counts of the epoch that runs, and the share of the last whole one.

    Args:
        drafted: supervised tokens that a slot predicted; each row comes once in an epoch.
        supervised: supervised tokens of the rows so far.
        whole: share of the last whole epoch, None in the first.
    """

    drafted: int = 0
    supervised: int = 0
    whole: float | None = None

    def add(self, drafted: int, supervised: int, epoch_ends: bool) -> None:
        self.drafted += drafted
        self.supervised += supervised
        if epoch_ends:
            self.whole = self.drafted / max(1, self.supervised)
            self.drafted = self.supervised = 0

    @property
    def share(self) -> float:
        """Of the last whole epoch; before there is one, of the rows so far."""
        return self.drafted / max(1, self.supervised) if self.whole is None else self.whole

    def state(self) -> dict[str, int | float | None]:
        return asdict(self)


def expected_coverage(rows: Iterable[Row], anchors: int, block_size: int) -> float:
    """Mean of the share of supervised tokens that a slot predicts in one epoch.

    Args:
        anchors: drawn without replacement in each document, among tokens whose next one is supervised.
        block_size: 1 + draft length.
    """
    drafted = supervised = 0.0
    for row in rows:
        drafted += _expected(row.spans, anchors, block_size - 1)
        supervised += len(row.answer)
    return drafted / max(1.0, supervised)


def _expected(spans: Sequence[Span], anchors: int, draft_length: int) -> float:
    """Tokens of a document that are drafted, in the mean."""
    lengths = [end - start for start, end in spans]
    candidates = sum(length - 1 for length in lengths)
    hit = _chances(candidates, min(anchors, candidates), draft_length)
    full = hit[-1]
    return sum(sum(hit[: length - 1]) + full * max(0, length - 1 - len(hit)) for length in lengths)


@lru_cache(maxsize=4096)
def _chances(candidates: int, drawn: int, draft_length: int) -> list[float]:
    """The chance that token j of a span is drafted, for j = 1 to G, whence it stays the same.

    It is not drafted where none of the min(j, G) tokens before it is an anchor; of M candidates that has the
    probability C(M - min(j, G), drawn) / C(M, drawn).
    """
    ways = comb(candidates, drawn)
    return [1 - comb(candidates - near, drawn) / ways for near in range(1, min(draft_length, candidates) + 1)]
