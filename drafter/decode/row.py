"""A prompt being answered, in one slot of the batch."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from drafter.decode.generation import Generation


@dataclass
class Row:
    """Where a prompt's answer stands.

    Attributes:
        index: of the prompt.
        length: slots committed in both caches; the anchor, the last known token, comes behind them.
    """

    index: int
    prompt: list[int]
    result: Generation = field(default_factory=Generation)
    started: float = 0.0
    length: int = 0

    @property
    def anchor(self) -> int:
        return self.result.token_ids[-1]

    @property
    def ended(self) -> bool:
        return bool(self.result.stop)

    def start(self) -> None:
        self.started = time.perf_counter()

    def append(self, drafted: list[int], chosen: int, limit: int, stop_ids: Collection[int], cycle: bool) -> list[int]:
        """Add accepted drafts and the verifier's token, cut at a stop token or the limit.

        Args:
            cycle: False for the prefill's token.
        Returns:
            the tokens that were added.
        """
        result = self.result
        tokens = [*drafted, chosen][: limit - len(result.token_ids)]
        stop = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        if stop is not None:
            tokens = tokens[: stop + 1]
        result.token_ids += tokens
        result.verifier_calls += 1
        if cycle:
            result.emitted.append(len(tokens))
            result.accepted.append(min(len(drafted), len(tokens)))
        if stop is not None or len(result.token_ids) == limit:
            result.stop = "length" if stop is None else "stop"
            result.seconds = time.perf_counter() - self.started
        return tokens
