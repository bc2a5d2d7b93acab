"""A prompt being answered."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from drafter.decode.generation import Generation
from drafter.decode.text import Transcript
from drafter.verification.base import NOTHING


@dataclass
class Answering:
    """Where a prompt's answer stands.

    Attributes:
        index: of the prompt.
        transcript: the answer as text, where somebody listens or a string may end it.
    """

    index: int
    prompt: list[int]
    result: Generation = field(default_factory=Generation)
    transcript: Transcript | None = None
    started: float = 0.0

    @property
    def anchor(self) -> int:
        """The last known token."""
        return self.result.token_ids[-1]

    @property
    def length(self) -> int:
        """Tokens before the anchor."""
        return len(self.prompt) + len(self.result.token_ids) - 1

    @property
    def ended(self) -> bool:
        return bool(self.result.stop)

    def start(self) -> None:
        self.started = time.perf_counter()

    def append(
        self, new: Sequence[int], accepted: int, limit: int, stop_ids: Collection[int], drafted: int | None, calls: int
    ) -> list[int]:
        """Add tokens, cut at a stop token, a stop string or the limit.

        Args:
            accepted: how many of `new` were drafts.
            drafted: tokens that were proposed; None for the prefill's.
            calls: passes of the verifier that they took.
        Returns:
            the tokens that were added.
        Raises:
            ValueError: one is `NOTHING`.
        """
        result = self.result
        tokens = list(new[: limit - len(result.token_ids)])
        stop = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        if stop is not None:
            tokens = tokens[: stop + 1]
        if NOTHING in tokens:
            raise ValueError(
                f"prompt {self.index}: the model's logits behind it are no numbers (NaN); load the model in bfloat16 "
                "or float32, and check its weights"
            )
        if self.transcript is not None:
            for i, token in enumerate(tokens):
                if i != stop and self.transcript.push(token):
                    stop, tokens = i, tokens[: i + 1]
                    break
        result.token_ids += tokens
        result.verifier_calls += calls
        if drafted is not None:
            result.emitted.append(len(tokens))
            result.accepted.append(min(accepted, len(tokens)))
            result.drafted.append(drafted)
        if stop is not None or len(result.token_ids) == limit:
            result.stop = "length" if stop is None else "stop"
            result.seconds = time.perf_counter() - self.started
            if self.transcript is not None:
                self.transcript.close()
                result.text = self.transcript.text
        return tokens
