"""A prompt being answered, in one slot of the batch."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from drafter.decode.generation import Generation
from drafter.decode.text import Transcript


@dataclass
class Row:
    """Where a prompt's answer stands.

    Attributes:
        index: of the prompt.
        transcript: the answer as text, where somebody listens or a string may end it.
        length: slots committed in both caches; the anchor, the last known token, comes behind them.
    """

    index: int
    prompt: list[int]
    result: Generation = field(default_factory=Generation)
    transcript: Transcript | None = None
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

    def append(
        self, kept: list[int], chosen: int, limit: int, stop_ids: Collection[int], drafted: int | None
    ) -> list[int]:
        """Add accepted drafts and the verifier's token, cut at a stop token, a stop string or the limit.

        Args:
            drafted: tokens that were proposed; None for the prefill's token.
        Returns:
            the tokens that were added.
        """
        result = self.result
        tokens = [*kept, chosen][: limit - len(result.token_ids)]
        stop = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        if stop is not None:
            tokens = tokens[: stop + 1]
        if self.transcript is not None:
            for i, token in enumerate(tokens):
                if i != stop and self.transcript.push(token):
                    stop, tokens = i, tokens[: i + 1]
                    break
        result.token_ids += tokens
        result.verifier_calls += 1
        if drafted is not None:
            result.emitted.append(len(tokens))
            result.accepted.append(min(len(kept), len(tokens)))
            result.drafted.append(drafted)
        if stop is not None or len(result.token_ids) == limit:
            result.stop = "length" if stop is None else "stop"
            result.seconds = time.perf_counter() - self.started
            if self.transcript is not None:
                self.transcript.close()
                result.text = self.transcript.text
        return tokens
