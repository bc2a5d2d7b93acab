"""A cycle without a verifier: a push-forward model alone, the same number of tokens for every row in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drafter.attention import KVCache
from drafter.decode.answering import Answering
from drafter.decode.pair import PREFILL_CHUNK
from drafter.decode.sampling import likeliest_number
from drafter.decode.schemes.base import Outcome
from drafter.models.push_forward import PushForwardModel, check_noise


class FreeRunning:
    """K-Forcing's decoding (arXiv:2606.10820, algorithm 1): no guarantee, every token is kept.

    Keys and values of real tokens alone are committed; those of noise are overwritten by the next pass, which takes in
    the tokens that came of it together with new noise.

    Args:
        count: tokens of a pass.
        noise: numbers in [0, 1) of every place of every answer, [prompts, at least limit + count].
        cache: of as many rows as are answered at a time, with room for `2 * count` behind the longest answer.
        penalty: of a token's logit for each time that the answer holds it, inside the block as well.
    """

    def __init__(
        self,
        model: PushForwardModel,
        count: int,
        noise: Tensor,
        temperature: float,
        cache: KVCache,
        penalty: float = 0.0,
    ):
        check_noise(noise)
        self.model, self.count, self.noise, self.penalty = model, count, noise, penalty
        self.cache = cache
        self.warmth = torch.full((cache.batch,), temperature, device=model.device)
        self.counts = torch.zeros(cache.batch if penalty else 0, len(model.head), device=model.device)  # [B, V]

    def prefill(self, slots: Sequence[int], rows: Sequence[Answering]) -> Outcome:
        prompt = torch.tensor([rows[0].prompt], device=self.model.device)
        last = prompt.shape[1] - 1
        shared = last if len(slots) > 1 else last - last % PREFILL_CHUNK  # the rest goes with the first noise
        cache = self.cache.row(slots[0])
        for chunk in prompt[:, :shared].split(PREFILL_CHUNK, dim=1) if shared else ():
            self.model.extend(chunk, cache)
            cache.set_lengths([cache.longest + chunk.shape[1]])
        if len(slots) > 1:
            self.cache.copy_row(slots[0], list(slots[1:]), shared)
        tokens = []
        for slot, row in zip(slots, rows, strict=True):
            own = self.cache.row(slot)
            own.set_lengths([shared])
            noise = self.noise[row.index : row.index + 1, : self.count]
            logits = self.model.logits(self.model.push(prompt[:, shared:], noise, self.warmth[:1], own))  # [1, k, V]
            if self.penalty:
                self.counts[slot] = 0
            tokens += self.choose(logits, self.counts[slot : slot + 1]).tolist()
        return Outcome(tokens, [self.count] * len(rows), None, 0)

    def cycle(self, rows: Sequence[Answering | None]) -> Outcome:
        count, device = self.count, self.model.device
        nothing = [0] * count
        last = [row.result.token_ids[-count:] if row else nothing for row in rows]
        done = torch.tensor([len(row.result.token_ids) if row else 0 for row in rows], device=device)
        prompts = torch.tensor([row.index if row else 0 for row in rows], device=device)
        self.cache.set_lengths([row.length + 1 - count if row else 0 for row in rows])
        places = done[:, None] + torch.arange(count, device=device)  # [B, k]
        ids, noise = torch.tensor(last, device=device), self.noise[prompts[:, None], places]
        logits = self.model.logits(self.model.push(ids, noise, self.warmth, self.cache))  # [B, k, V]
        tokens = self.choose(logits, self.counts).tolist()  # the one place where the host waits
        return Outcome(tokens, [count] * len(rows), count, 0)

    def shrink(self, slots: list[int]) -> None:
        self.cache.shrink(slots)
        self.warmth = self.warmth[slots]
        if self.penalty:
            self.counts = self.counts[slots]

    def choose(self, logits: Tensor, counts: Tensor) -> Tensor:
        """The likeliest tokens of logits [B, k, V]; where there is a penalty, one after the other: [B, k]."""
        if not self.penalty:
            return likeliest_number(logits)
        chosen = []
        for at in range(logits.shape[1]):
            token = (logits[:, at] - self.penalty * counts).argmax(-1, keepdim=True)  # [B, 1]
            counts.scatter_add_(1, token, torch.ones_like(token, dtype=counts.dtype))
            chosen.append(token)
        return torch.cat(chosen, dim=1)
