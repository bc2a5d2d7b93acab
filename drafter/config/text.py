"""`text.*` of a recipe: what systems that learn text itself read."""

from dataclasses import dataclass, field
from typing import Any

from drafter.config.checks import require
from drafter.config.sources import read_sources
from drafter.sources.texts import TEXT_SOURCES


@dataclass
class TextConfig:
    """Documents, joined with the end of text between them and cut into rows.

    Args:
        sources: where documents come from, in order; an entry has a `kind` (docstrings, functions, files, hub) and the
            settings of it.
        sequence_length: tokens of a row.
        validation_share: share of the documents that is held out.
        validation_rows: held-out rows that validation looks at.
    """

    sources: list[Any] = field(default_factory=lambda: [{"kind": "docstrings"}])
    sequence_length: int = 128
    validation_share: float = 0.05
    validation_rows: int = 64

    def __post_init__(self) -> None:
        self.sources = read_sources(self.sources, TEXT_SOURCES, "text.sources")
        require(bool(self.sources), "text.sources", self.sources, "name at least one")
        require(self.sequence_length >= 8, "text.sequence_length", self.sequence_length, "must be >= 8")
        require(self.validation_rows >= 1, "text.validation_rows", self.validation_rows, "must be >= 1")
        within = 0 < self.validation_share < 1
        require(within, "text.validation_share", self.validation_share, "must lie between 0 and 1")
