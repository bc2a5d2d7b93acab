"""Decoding: the drafter proposes a block, the verifier checks it in one pass, a rule decides how much of it stays.

A cycle is draft → verify → rule → commit. Both models keep preallocated caches with a length per row, so rejecting a
token is not advancing a length, and the rows of a batch advance by different amounts.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drafter.models import BlockDiffusionDrafter
from drafter.sampling import check, probabilities
from drafter.verification import LOSSLESS, RULES, Rule, Verification, make_rule, match, sample
from drafter.verifier import Verifier

PREFILL_CHUNK = 512


@dataclass
class Generation:
    """What one prompt became.

    Attributes:
        token_ids: the answer, its stop token included.
        accepted: draft tokens kept in each cycle, cut at the end of the answer.
        emitted: tokens that each cycle added to the answer; the prefill's token is in none of them.
        stop: `stop`, `length`, or the reason why the row could not run.
        verifier_calls: verifier passes over this row, the prefill counted once.
        seconds: from the row's prefill to its last token.
    """

    token_ids: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    emitted: list[int] = field(default_factory=list)
    stop: str = ""
    verifier_calls: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens emitted by cycles over cycles; NaN without a cycle."""
        return sum(self.emitted) / len(self.emitted) if self.emitted else float("nan")


def tokens_per_cycle(generations: Sequence[Generation]) -> float:
    """Tokens emitted by cycles over cycles, summed over prompts."""
    cycles = sum(len(one.emitted) for one in generations)
    return sum(sum(one.emitted) for one in generations) / cycles if cycles else float("nan")


@dataclass
class _Row:
    """A prompt being answered, in one slot of the batch."""

    index: int
    prompt: list[int]
    result: Generation
    started: float
    length: int = 0  # slots committed in both caches; the anchor, the last known token, comes behind them

    @property
    def anchor(self) -> int:
        return self.result.token_ids[-1]


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
        self.drafter = drafter if self.draft_length else None
        self.verifier, self.rule = verifier, make_rule(rule) if isinstance(rule, str) else rule
        if self.drafter is not None:
            self.drafter.check_verifier(verifier)
            self.tap_layers: tuple[int, ...] = tuple(self.drafter.tap_layers)
            self._draft_ids = self.drafter.vocabulary  # [V'] or None: the whole vocabulary
            self._draft_head = verifier.head if self._draft_ids is None else verifier.head[self._draft_ids].contiguous()
        else:
            self.tap_layers = ()

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
        rows = [_Row(i, self._encode(prompt), Generation(), 0.0) for i, prompt in enumerate(prompts)]
        context = self.verifier.config.max_position_embeddings
        waiting: deque[_Row] = deque()
        for row in rows:
            if not row.prompt:
                row.result.stop = "the prompt is empty"
            elif len(row.prompt) + max_new_tokens > context:
                row.result.stop = (
                    f"{len(row.prompt)} prompt tokens + max_new_tokens={max_new_tokens} exceed the context of {context}"
                )
            else:
                waiting.append(row)
        if waiting:
            capacity = (
                max(len(row.prompt) for row in waiting)
                + max_new_tokens
                + (self.drafter.block_size if self.drafter else 1)
            )
            batch = _Batch(self, min(batch_size, len(waiting)), capacity, max_new_tokens)
            batch.transform = lambda logits: probabilities(logits, temperature, top_p, top_k)
            batch.greedy = temperature == 0
            lossless = any(self.rule is RULES[name] for name in LOSSLESS)
            batch.rule = match if batch.greedy and lossless else self.rule
            batch.generator = torch.Generator(self.verifier.device).manual_seed(seed)
            batch.on_tokens, batch.on_end = on_tokens, on_end
            batch.run(waiting)
        return [row.result for row in rows]

    def _encode(self, prompt: str | Sequence[int]) -> list[int]:
        return self.verifier.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)


class _Batch:
    """The state of one `generate` call: caches, and the row in each slot."""

    transform: Callable[[Tensor], Tensor]
    greedy: bool
    rule: Rule
    generator: torch.Generator
    on_tokens: Callable[[int, list[int]], None] | None
    on_end: Callable[[int, Generation], None] | None

    def __init__(self, decoder: SpeculativeDecoder, size: int, capacity: int, limit: int):
        self.decoder, self.verifier, self.drafter, self.limit = decoder, decoder.verifier, decoder.drafter, limit
        self.stop_ids = set(self.verifier.stop_ids)
        self.slots: list[_Row | None] = [None] * size
        self.cache = self.verifier.new_cache(size, capacity)
        if self.drafter is not None:
            self.draft_cache = self.drafter.new_cache(size, capacity, self.verifier.kernel)

    def run(self, waiting: deque[_Row]) -> None:
        while waiting or any(self.slots):
            for slot, row in enumerate(self.slots):
                while self.slots[slot] is None and waiting:
                    row = waiting.popleft()
                    self.slots[slot] = row
                    self.prefill(slot, row)
            if any(self.slots):
                self.commit_lengths()
                self.cycle()

    def commit_lengths(self) -> None:
        lengths = [row.length if row else 0 for row in self.slots]
        self.cache.set_lengths(lengths)
        if self.drafter is not None:
            self.draft_cache.set_lengths(lengths)

    def prefill(self, slot: int, row: _Row) -> None:
        """Run the prompt in chunks, fill both caches of the slot, and let the verifier choose the first token."""
        row.started = time.perf_counter()
        cache = self.cache.row(slot)
        draft_cache = self.draft_cache.row(slot) if self.drafter is not None else None
        for start in range(0, len(row.prompt), PREFILL_CHUNK):
            chunk = torch.tensor([row.prompt[start : start + PREFILL_CHUNK]], device=self.verifier.device)
            hidden, taps = self.verifier.step(chunk, cache, self.decoder.tap_layers)
            cache.set_lengths([start + chunk.shape[1]])
            if self.drafter is not None and draft_cache is not None and taps is not None:
                self.drafter.extend(taps, draft_cache)
                draft_cache.set_lengths([start + chunk.shape[1]])
        law = self.transform(self.verifier.logits(hidden[:, -1]))  # [1, V]
        first = sample(law, self.generator)
        row.length = len(row.prompt)
        self.append(slot, row, [], int(first), cycle=False)

    def cycle(self) -> None:
        """Draft, verify, decide, commit: every row gains at least one token."""
        anchors = torch.tensor(
            [[row.anchor if row else 0] for row in self.slots], device=self.verifier.device
        )  # [B, 1]
        ids, draft_probs = anchors, None
        if self.drafter is not None:
            draft_ids, draft_probs = self.draft(self.drafter, anchors)
            ids = torch.cat([anchors, draft_ids], dim=1)  # [B, 1+G]
        hidden, taps = self.verifier.step(ids, self.cache, self.decoder.tap_layers)
        if self.drafter is not None and taps is not None:
            self.drafter.extend(taps, self.draft_cache)
        decision = self.decide(ids[:, 1:], draft_probs, self.verifier.logits(hidden))
        accepted, chosen, drafted = decision.accepted.tolist(), decision.next_token.tolist(), ids[:, 1:].tolist()
        for slot, row in enumerate(self.slots):
            if row is not None:
                row.length += accepted[slot] + 1
                self.append(slot, row, drafted[slot][: accepted[slot]], chosen[slot])

    def draft(self, drafter: BlockDiffusionDrafter, anchors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Propose a block behind the anchors [B, 1]; returns ids [B, G] and, for rules that need them, laws."""
        masks = anchors.new_full((len(anchors), drafter.block_size - 1), drafter.mask_token_id)
        block = self.verifier.embed(torch.cat([anchors, masks], dim=1))  # [B, K, D] as trained, however few are kept
        hidden = drafter.draft(block, self.draft_cache)[:, 1 : self.decoder.draft_length + 1]  # [B, G, D]
        logits = hidden @ self.decoder._draft_head.T  # [B, G, V']
        subset = self.decoder._draft_ids
        if self.rule is match:
            ids = logits.argmax(-1)
            return (ids if subset is None else subset[ids]), None
        if subset is not None:
            whole = logits.new_full((*logits.shape[:-1], self.verifier.head.shape[0]), -torch.inf)
            logits = whole.index_copy_(-1, subset, logits)
        law = self.transform(logits)  # [B, G, V]
        return sample(law, self.generator), law

    def decide(self, draft_ids: Tensor, draft_probs: Tensor | None, logits: Tensor) -> Verification:
        """Apply the rule to the verifier's logits [B, 1+G, V]."""
        if self.greedy and self.rule is match:  # the law is one-hot: compare ids and skip the vocabulary
            choice = logits.argmax(-1)  # [B, 1+G]
            accepted = (choice[:, :-1] == draft_ids).cumprod(-1).sum(-1)  # [B]
            return Verification(accepted, choice.gather(1, accepted[:, None])[:, 0])
        return self.rule(draft_ids, draft_probs, self.transform(logits), self.generator)

    def append(self, slot: int, row: _Row, drafted: list[int], chosen: int, cycle: bool = True) -> None:
        """Add accepted drafts and the verifier's token, cut at a stop token or the limit; free the slot at the end."""
        result = row.result
        tokens = [*drafted, chosen][: self.limit - len(result.token_ids)]
        stop = next((i for i, token in enumerate(tokens) if token in self.stop_ids), None)
        if stop is not None:
            tokens = tokens[: stop + 1]
        result.token_ids += tokens
        result.verifier_calls += 1
        if cycle:
            result.emitted.append(len(tokens))
            result.accepted.append(min(len(drafted), len(tokens)))
        if self.on_tokens is not None:
            self.on_tokens(row.index, tokens)
        if stop is not None or len(result.token_ids) == self.limit:
            result.stop = "length" if stop is None else "stop"
            result.seconds = time.perf_counter() - row.started
            self.slots[slot] = None
            if self.on_end is not None:
                self.on_end(row.index, result)
