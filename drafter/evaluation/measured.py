"""A way of decoding, measured: the one result of everything here that decodes, and the one table of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drafter.decode import Generation
from drafter.evaluation.cycles import Cycles


@dataclass(frozen=True)
class Measured:
    """A way of decoding some prompts: its cycles and, where a clock ran, its time.

    Attributes:
        tokens, verifier_calls, seconds: of what the clock saw, over all prompts; a call is a verifier's pass over one
            row. A race sees what lies behind the first token of each answer, `whole` sees the prefill, too.
        answers: what was decoded.
    """

    name: str
    cycles: Cycles
    tokens: int
    verifier_calls: int
    seconds: float
    answers: Sequence[Generation] = ()

    @classmethod
    def whole(cls, name: str, answers: Sequence[Generation]) -> "Measured":
        """Answers by their own clocks, from prefill to last token."""
        tokens, calls = sum(len(one.token_ids) for one in answers), sum(one.verifier_calls for one in answers)
        return cls(name, Cycles.of(answers), tokens, calls, sum(one.seconds for one in answers), answers)

    @classmethod
    def behind_prefill(cls, name: str, answers: Sequence[Generation], seconds: float) -> "Measured":
        """Answers by a clock that started at their first tokens."""
        tokens = sum(max(0, len(one.token_ids) - 1) for one in answers)
        calls = sum(max(0, one.verifier_calls - 1) for one in answers)
        return cls(name, Cycles.of(answers), tokens, calls, seconds, answers)

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens emitted by cycles over cycles, summed over prompts."""
        return self.cycles.tokens_per_cycle

    @property
    def seconds_per_token(self) -> float:
        """Wall time over the tokens of all prompts; NaN without a token."""
        return self.seconds / self.tokens if self.tokens else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all prompts over wall time; NaN where no time passed."""
        return self.tokens / self.seconds if self.seconds else math.nan

    def figures(self) -> dict[str, Any]:
        """A line of a table, by column."""
        return {
            "name": self.name,
            "prompts": self.cycles.prompts,
            "tokens_per_cycle": self.tokens_per_cycle,
            "accepted_per_cycle": self.cycles.accepted_per_cycle,
            "tokens": self.tokens,
            "verifier_calls": self.verifier_calls,
            "seconds": self.seconds,
            "ms_per_token": 1e3 * self.seconds_per_token,
            "tokens_per_second": self.tokens_per_second,
        }


FORMATS = {
    "temperature": "{:g}",
    "tokens_per_cycle": "{:.3f}",
    "low": "{:.3f}",
    "high": "{:.3f}",
    "accepted_per_cycle": "{:.3f}",
    "ms_per_token": "{:.2f}",
    "tokens_per_second": "{:.1f}",
    "seconds": "{:.2f}",
    "speedup": "{:.2f}",
    "share_of_ideal": "{:.2f}",
    "host_ms_per_cycle": "{:.2f}",
}


def table(lines: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Figures as a Markdown table, one line each; an empty cell where a line has no such figure.

    Args:
        columns: none: all that a line has.
    """
    head, rows = cells(lines, columns)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    ruled = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in ruled)


def cells(lines: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of that table, for a page."""
    columns = columns or list(dict.fromkeys(name for line in lines for name in line))
    rows = [[cell(column, line.get(column)) for column in columns] for line in lines]
    return [column.replace("_", " ") for column in columns], rows


def cell(column: str, value: Any) -> str:
    """A figure as tables show it: to three digits where its column has no format."""
    if isinstance(value, list):  # a figure for each slot
        return " ".join("-" if one is None else f"{one:.2f}" for one in value)
    if value is None or value == "":
        return ""
    return FORMATS.get(column, "{:.3g}" if isinstance(value, float) else "{}").format(value)
