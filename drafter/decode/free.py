"""Decoding by a push-forward model alone: no verifier, a fixed number of tokens for every row and pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from drafter.attention import KVCache, Replay, choose_kernel, choose_replay
from drafter.decode.checks import check_generation, whole_seed
from drafter.decode.generation import Generation
from drafter.decode.prompts import read_prompts, to_answer
from drafter.decode.sampling import whole
from drafter.decode.schemes.free_running import FreeRunning
from drafter.decode.slots import Listeners, Slots
from drafter.decode.text import stop_strings
from drafter.models.push_forward import PushForwardModel, for_decoding
from drafter.verification.streams import kept_noise


class FreeDecoder:
    """Decode with a push-forward model: lossy, what it emits is its own law and nothing checks it.

    Args:
        tokenizer: None where only token ids are used.
        tokens_per_pass: at most the trained number; None for that.
        frequency_penalty: of a token's logit for each time that the answer holds it. Not of the paper: its released
            code decodes so against repetition.
        attention, compile: as of a `Verifier`.
    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        model: PushForwardModel,
        tokenizer: Any = None,
        tokens_per_pass: int | None = None,
        frequency_penalty: float = 0.0,
        attention: str = "auto",
        compile: str = "auto",
    ):
        trained = model.tokens_per_pass
        self.count = trained if tokens_per_pass is None else whole(tokens_per_pass) or 0
        if not 1 <= self.count <= trained:
            raise ValueError(f"tokens_per_pass={tokens_per_pass}: the model was trained to give 1 to {trained}")
        if not 0 <= frequency_penalty < float("inf"):
            raise ValueError(f"frequency_penalty={frequency_penalty}: must be >= 0 and finite; 0 is none")
        self.model, self.tokenizer, self.penalty = for_decoding(model.eval(), compile), tokenizer, frequency_penalty
        self.kernel = choose_kernel(attention, model.device, model.dtype)
        self.replayed = Replay.OFF if model.device.type == "cpu" else choose_replay(compile, model.device)
        self._kept: KVCache | None = None

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = 1,
        stop: str | Sequence[str] = (),
        on_tokens: Callable[[int, list[int]], None] | None = None,
        on_text: Callable[[int, str], None] | None = None,
        on_end: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """As `SpeculativeDecoder.generate`; an answer is a function of the seed and its prompt's number alone.

        Raises:
            ValueError: an argument is out of range, text is asked for without a tokenizer, or logits are no numbers.
        """
        check_generation(max_new_tokens, batch_size, temperature)
        seed = whole_seed(seed)
        self.model.check_temperature(temperature)
        strings = stop_strings(stop)
        reads = bool(strings or on_text)
        if reads and self.tokenizer is None:
            raise ValueError("stop, on_text: there is no tokenizer; use token ids alone")
        config, vocabulary = self.model.backbone.config.get_text_config(), len(self.model.head)
        rows = read_prompts(prompts, self.tokenizer, vocabulary, config.max_position_embeddings, max_new_tokens)
        waiting = to_answer(rows, self.tokenizer if reads else None, strings, on_end)
        if waiting:
            noise = kept_noise(seed, len(rows), max_new_tokens + self.count, self.model.device)
            size, longest = min(batch_size, len(waiting)), max(len(row.prompt) for row in waiting) + max_new_tokens
            cache = self._cache(size, longest + 2 * self.count)
            scheme = FreeRunning(self.model, self.count, noise, temperature, cache, self.penalty)
            listeners = Listeners(on_tokens, on_text, on_end)
            fixed = bool(self.replayed)
            Slots(scheme, size, max_new_tokens, self.model.stop_ids, listeners, fixed).run(waiting)
            self._kept = cache if self.replayed else None
        return [row.result for row in rows]

    def _cache(self, size: int, tokens: int) -> KVCache:
        """That of the last call with its graphs, if it was kept and is large enough."""
        kept, self._kept = self._kept, None
        if kept is not None and kept.batch == size and kept.capacity >= tokens:
            return kept
        return self.model.new_cache(size, tokens, self.kernel, self.replayed)
