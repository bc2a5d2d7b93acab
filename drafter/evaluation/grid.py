"""A drafter against the same loop without drafts: temperatures × batch sizes × draft lengths → cells."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drafter.decode import Costs
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.measured import Measured
from drafter.evaluation.parts import Parts, measure_costs
from drafter.evaluation.race import Way, race
from drafter.models import Drafter
from drafter.verifier import Verifier

WIDEST_TREE = 32  # nodes that `auto` may choose among


@dataclass(frozen=True)
class Drafts:
    """How a cycle drafts: in a row, `length` tokens, or a tree of `nodes`; `auto` chooses by measured costs."""

    length: int | str | None = None
    nodes: int | str | None = None

    def __str__(self) -> str:
        return str(self.length) if self.nodes is None else f"tree {self.nodes}"

    def costs(self, verifier: Verifier, drafter: Drafter, context: int, batch_size: int = 1) -> Costs | None:
        """What `auto` chooses by, measured now; None without it."""
        if "auto" not in (self.length, self.nodes):
            return None
        widest = WIDEST_TREE + 1 if self.nodes else None
        return measure_costs(verifier, drafter, context, repeats=5, batch_size=batch_size, widest=widest)


@dataclass(frozen=True)
class Cell:
    """One suite, temperature, batch size and way of drafting.

    Attributes:
        speedup: over draft length 0 of the same loop, in the same run.
        ideal: speed-up if a cycle were its passes alone: tokens per cycle · t_plain / (t_verify + t_draft).
        share_of_ideal: speedup / ideal. Both are None without drafts, for trees and for lengths that change.
        plain_ms, verify_ms, draft_ms: those passes, measured in between.
        host_ms_per_cycle: a cycle's time less its passes; None unless the batch is one row.
    """

    suite: str
    temperature: float
    batch_size: int
    drafts: str
    measured: Measured
    speedup: float
    ideal: float | None
    share_of_ideal: float | None
    plain_ms: float
    verify_ms: float | None
    draft_ms: float | None
    host_ms_per_cycle: float | None

    def figures(self) -> dict[str, Any]:
        """A line of the table and of the CSV file."""
        own = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "measured"}
        way = {name: value for name, value in self.measured.figures().items() if name != "name"}
        place = ("suite", "temperature", "batch_size", "drafts")
        return {name: own.pop(name) for name in place} | way | own


@dataclass(frozen=True)
class Grid:
    """What is compared, besides draft length 0."""

    temperatures: Sequence[float]
    batch_sizes: Sequence[int]
    drafts: Sequence[Drafts]
    max_new_tokens: int = 128
    repeats: int = 3
    decoding: Decoding = dataclasses.field(default_factory=Decoding)


def measure(
    verifier: Verifier, drafter: Drafter, suites: Mapping[str, Sequence[list[int]]], grid: Grid
) -> Iterator[Cell]:
    """Every cell of the grid, as it is measured.

    Args:
        suites: name → prompts, as token ids.
    """
    ways = dict.fromkeys([Drafts(0), *grid.drafts])
    lengths = [one.length for one in ways if isinstance(one.length, int) and one.length]
    widths = [1 + length for length in lengths]
    for suite, prompts in suites.items():
        for temperature in grid.temperatures:
            decoding = dataclasses.replace(grid.decoding, temperature=temperature)
            for size in grid.batch_sizes:
                rounds = [prompts[at : at + size] for at in range(0, len(prompts), size)]
                context = sum(map(len, prompts)) // len(prompts) + grid.max_new_tokens // 2
                parts = Parts(verifier, drafter, min(size, len(prompts)), context, widths, lengths)
                found = {str(one): _way(verifier, drafter, decoding, one, size, context) for one in ways}
                measured = race(found, rounds, grid.max_new_tokens, grid.repeats, verifier.device, parts.measure)
                for one in ways:
                    yield _cell(suite, temperature, size, one, measured, parts)


def _way(verifier: Verifier, drafter: Drafter, decoding: Decoding, drafts: Drafts, size: int, context: int) -> Way:
    costs = drafts.costs(verifier, drafter, context, size)
    decode = decoding.decoder(verifier, None if drafts.length == 0 else drafter, drafts.length, drafts.nodes, costs)
    return lambda prompts, limit: decode(prompts, max_new_tokens=limit, batch_size=len(prompts))


def _cell(
    suite: str, temperature: float, size: int, drafts: Drafts, found: Mapping[str, Measured], parts: Parts
) -> Cell:
    way, length = found[str(drafts)], drafts.length if isinstance(drafts.length, int) else None
    speedup = found["0"].seconds_per_token / way.seconds_per_token
    ideal = parts.ideal(way.tokens_per_cycle, length) if length else None
    alone = size == 1 and length is not None and way.cycles.count > 0
    return Cell(
        suite=suite,
        temperature=temperature,
        batch_size=size,
        drafts=str(drafts),
        measured=way,
        speedup=speedup,
        ideal=ideal,
        share_of_ideal=speedup / ideal if ideal else None,
        plain_ms=1e3 * parts.verify(1),
        verify_ms=None if length is None else 1e3 * parts.verify(1 + length),
        draft_ms=None if length is None else 1e3 * parts.draft(length),
        host_ms_per_cycle=1e3 * (way.seconds / way.cycles.count - parts.cycle(length or 0)) if alone else None,
    )


COLUMNS = (
    "suite",
    "temperature",
    "batch_size",
    "drafts",
    "tokens_per_cycle",
    "verifier_calls",
    "ms_per_token",
    "tokens_per_second",
    "speedup",
    "share_of_ideal",
    "host_ms_per_cycle",
)
