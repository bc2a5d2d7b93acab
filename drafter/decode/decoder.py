"""The decoder's front: arguments checked, prompts turned into rows, a batch run over them."""

from collections import deque
from collections.abc import Callable, Sequence

import torch

from drafter.decode.batch import Batch, Listeners
from drafter.decode.deciding import Decider
from drafter.decode.drafting import Proposer
from drafter.decode.generation import Generation
from drafter.decode.row import Row
from drafter.models import BlockDiffusionDrafter
from drafter.sampling import check
from drafter.verification import Rule, make_rule
from drafter.verifier import Verifier


class SpeculativeDecoder:
    """Decode with a verifier and, unless it is None, a drafter.

    Args:
        drafter: None for plain decoding by the same loop.
        rule: a verification rule or its name; `match` drafts by argmax and keeps what the verifier's own choice
            agrees with. At temperature 0 every lossless rule does just that.
        draft_length: tokens proposed per cycle, at most the trained one; None for the trained one.
    Raises:
        ValueError: the drafter was made for another verifier, or draft_length is out of range.
    """

    def __init__(
        self,
        verifier: Verifier,
        drafter: BlockDiffusionDrafter | None = None,
        rule: Rule | str = "match",
        draft_length: int | None = None,
    ):
        longest = 0 if drafter is None else drafter.block_size - 1
        if draft_length is not None and not 0 <= draft_length <= longest:
            raise ValueError(
                f"draft_length={draft_length}: the drafter proposes at most {longest}; choose 0 to {longest}"
            )
        self.draft_length = longest if draft_length is None else draft_length
        self.verifier, self.rule = verifier, make_rule(rule) if isinstance(rule, str) else rule
        self.drafter = drafter if self.draft_length else None
        self.proposer: Proposer | None = None
        if self.drafter is not None:
            self.drafter.check_verifier(verifier)
            self.proposer = Proposer(verifier, self.drafter, self.draft_length)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        batch_size: int = 1,
        on_tokens: Callable[[int, list[int]], None] | None = None,
        on_end: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer prompts (text, or token ids), `batch_size` at a time; a finished row makes room for the next.

        Args:
            on_tokens: called with a prompt's index and its new tokens after each cycle (streaming).
            on_end: called with a prompt's index and its Generation when it ends.
        Returns:
            one Generation per prompt, in order. A prompt that can't run says so in `stop`; the others go on.
        Raises:
            ValueError: an argument is out of range.
        """
        check(temperature, top_p, top_k)
        if max_new_tokens < 1 or batch_size < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}, batch_size={batch_size}: both must be >= 1")
        rows = [Row(index, self._encode(prompt)) for index, prompt in enumerate(prompts)]
        waiting: deque[Row] = deque()
        for row in rows:
            row.result.stop = self._refusal(row.prompt, max_new_tokens)
            if not row.ended:
                waiting.append(row)
        if waiting:
            block = 1 if self.drafter is None else self.drafter.block_size
            capacity = max(len(row.prompt) for row in waiting) + max_new_tokens + block
            generator = torch.Generator(self.verifier.device).manual_seed(seed)
            decider = Decider(self.rule, temperature, top_p, top_k, generator)
            listeners, size = Listeners(on_tokens, on_end), min(batch_size, len(waiting))
            Batch(self.verifier, self.proposer, decider, listeners, size, capacity, max_new_tokens).run(waiting)
        return [row.result for row in rows]

    def _encode(self, prompt: str | Sequence[int]) -> list[int]:
        return self.verifier.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _refusal(self, prompt: list[int], max_new_tokens: int) -> str:
        """Why a prompt can't run, or nothing."""
        context = self.verifier.config.max_position_embeddings
        if not prompt:
            return "the prompt is empty"
        if len(prompt) + max_new_tokens > context:
            return f"{len(prompt)} prompt tokens + max_new_tokens={max_new_tokens} exceed the context of {context}"
        return ""
