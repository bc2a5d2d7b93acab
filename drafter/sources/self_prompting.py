"""Prompts that the chat verifier writes itself: the settings; what asks it is `drafter.regenerate.self_prompting`."""

from dataclasses import dataclass

from drafter.sources.base import Source


@dataclass
class SelfPrompting(Source):
    """User turns that the verifier samples behind its own user header; no data set needed.

    Args:
        count: how many.
    """

    kind: str = "self_prompting"
    count: int = 0

    def __post_init__(self) -> None:
        self.require(self.count >= 1, "count", "must be >= 1")
