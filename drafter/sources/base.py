"""What a source yields, and what becomes of rows that yield nothing."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

Message = dict[str, Any]  # role, content, and where it has them reasoning_content, tool_calls, name, tool_call_id
Conversation = dict[str, Any]  # source (document), kind, messages, and where there are any tools
NAMED = 3  # bad rows of each reason that are named in the log

POLICIES = ("skip", "fail")


class BadRow(ValueError):
    """A row that can't be used: the reason, one of few, and what is wrong with this one."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


@dataclass
class BadRows:
    """Rows that can't be used, counted by reason; the first of each are named in the log, with file and row.

    Args:
        policy: `skip` them, or `fail` at the first.
    """

    policy: str = "skip"
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, where: str, error: BadRow) -> None:
        """Count a row.

        Raises:
            ValueError: the policy is to fail.
        """
        if self.policy == "fail":
            raise ValueError(f"{where}: {error}; mend or remove it, or set data.bad_rows=skip")
        self.counts[error.reason] += 1
        if self.counts[error.reason] <= NAMED:
            log.warning("left out %s: %s", where, error)

    def as_dict(self) -> dict[str, int]:
        """Reason → rows."""
        return dict(sorted(self.counts.items()))


@dataclass
class Source:
    """Where conversations come from; a source is its own settings, and `kind` says which one it is."""

    kind: str = ""

    def conversations(self, seed: int, bad: BadRows) -> Iterator[Conversation]:
        """Every conversation: its messages, the author's answers among them where it has any.

        Raises:
            ValueError: the source is missing, or asked for more than it has.
        """
        raise NotImplementedError

    def require(self, ok: bool, name: str, remedy: str) -> None:
        """Raise the one-line ValueError of a wrong setting unless `ok`; who reads the recipe puts the list's name
        before it."""
        if not ok:
            raise ValueError(f"{name}={getattr(self, name)!r}: {remedy}")
