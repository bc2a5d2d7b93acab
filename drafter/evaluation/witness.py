"""Decoding with a rule that is watched: of which rows a cycle is, and how far from the verifier it emits."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from drafter.decode import SpeculativeDecoder
from drafter.decode.answering import Answering
from drafter.decode.schemes import Outcome, Scheme
from drafter.models.base import Drafter
from drafter.verification import Rule, Verification
from drafter.verifier import Verifier

Rows = Sequence[Answering | None]


class Watching(Protocol):
    """A rule that is told the rows of the cycle that it will judge."""

    rows: Rows

    @property
    def __call__(self) -> Callable[..., Verification]: ...


class WatchedDecoder(SpeculativeDecoder):
    """A decoder that tells its rule which rows each cycle is of."""

    def __init__(self, verifier: Verifier, drafter: Drafter, rule: Watching, **settings: Any):
        super().__init__(verifier, drafter, rule, **settings)
        self.watching = rule

    def _scheme(self, *arguments: Any) -> Scheme:
        return _Telling(super()._scheme(*arguments), self.watching)


class _Telling:
    def __init__(self, scheme: Scheme, watching: Watching):
        self.scheme, self.watching = scheme, watching

    def prefill(self, slots: Sequence[int], rows: Sequence[Answering]) -> Outcome:
        return self.scheme.prefill(slots, rows)

    def cycle(self, rows: Rows) -> Outcome:
        self.watching.rows = rows
        return self.scheme.cycle(rows)

    def shrink(self, slots: list[int]) -> None:
        self.scheme.shrink(slots)


def places(rows: Rows, found: Verification, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each drafted slot: whether its token was emitted, a draft or a correction; whose it is; its place there.

    Returns:
        [B, G] each: bool, long, long.
    """
    device = found.accepted.device
    slot = torch.arange(slots, device=device)
    first = torch.tensor([len(row.result.token_ids) if row else 0 for row in rows], device=device)
    owner = torch.tensor([row.index if row else -1 for row in rows], device=device)
    emitted = (slot <= found.accepted[:, None]) & (owner >= 0)[:, None]  # [B, G]
    return emitted, owner[:, None].expand_as(emitted), first[:, None] + slot


class Distances:
    """Any rule, with the sum over each answer's tokens of the distance to the verifier of the laws they came from.

    Args:
        rule: as the decoder takes it.
        variation: of verifier and draft laws [B, G, V], and `verifier_weight=` where the rule needs it, the distance
            at each slot, [B, G].
        prompts: how many answers there will be.
    """

    def __init__(self, rule: Rule, variation: Callable[..., Tensor], prompts: int):
        self.rule, self.variation = rule, variation
        self.rows: Rows = ()
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # of emitted slots: owner, place, distance
        self.prompts = prompts
        self.__signature__ = inspect.signature(rule)  # the decoder reads what the rule needs

    def __call__(
        self, draft_ids: Tensor, draft_probs: Tensor, verifier_probs: Tensor, generator: Any, **more: Any
    ) -> Verification:
        found = self.rule(draft_ids, draft_probs, verifier_probs, generator, **more)
        emitted, owner, place = places(self.rows, found, draft_ids.shape[1])
        weights = {name: value for name, value in more.items() if name == "verifier_weight"}
        distance = self.variation(verifier_probs[:, :-1], draft_probs, **weights)  # [B, G]
        self.found.append((owner[emitted], place[emitted], distance[emitted]))
        return found

    def sums(self, lengths: Sequence[int]) -> list[float]:
        """Of each answer, of so many tokens: the distances of its tokens, added up."""
        total = torch.zeros(self.prompts, dtype=torch.float64)
        for owner, place, distance in self.found:
            stayed = place < torch.tensor(lengths, device=place.device)[owner]
            total.index_add_(0, owner[stayed].cpu(), distance[stayed].double().cpu())
        return total.tolist()
