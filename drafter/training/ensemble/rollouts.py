"""Answers drawn from the ensemble by the real decoder, with what the objective needs of each token that it weighed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drafter.decode import Generation
from drafter.evaluation.witness import Rows, WatchedDecoder, places
from drafter.models.base import Drafter
from drafter.models.ensemble_head import EnsembleHead
from drafter.verification import Verification, dynamic_ensemble
from drafter.verification.base import per_slot, prob_at, total_variation
from drafter.verifier import Verifier


@dataclass(frozen=True)
class Weighed:
    """Tokens at drafted slots, N in a row: drafts that stayed, and corrections. Others are the verifier's own.

    Attributes:
        drafter_hidden, verifier_hidden: the states that predict each token, [N, D'] and [N, D].
        weight: of the verifier when it was drawn, [N].
        verifier, draft: p(x) and q(x) of the token, [N].
        variation: TV(p, q), [N].
        trajectory: which answer it is of, [N].
    """

    drafter_hidden: Tensor
    verifier_hidden: Tensor
    weight: Tensor
    verifier: Tensor
    draft: Tensor
    variation: Tensor
    trajectory: Tensor


class Recorder:
    """The rule `dynamic_ensemble` of a head, which keeps what it weighed."""

    def __init__(self, head: EnsembleHead):
        self.head = head
        self.rows: Rows = ()
        self.states: tuple[Tensor, ...] = ()
        self.kept: list[tuple[Tensor, ...]] = []

    def weigh(self, drafter_hidden: Tensor, verifier_hidden: Tensor) -> Tensor:
        """The head's weights; the states are kept until the rule is asked."""
        self.states = drafter_hidden, verifier_hidden
        return self.head(drafter_hidden, verifier_hidden)

    def __call__(
        self,
        draft_ids: Tensor,
        draft_probs: Tensor,
        verifier_probs: Tensor,
        generator: Any,
        *,
        verifier_weight: Tensor,
        draft_length: Tensor | None = None,
    ) -> Verification:
        found = dynamic_ensemble(
            draft_ids,
            draft_probs,
            verifier_probs,
            generator,
            verifier_weight=verifier_weight,
            draft_length=draft_length,
        )
        slots = torch.arange(draft_ids.shape[1], device=draft_ids.device)
        ids = torch.where(slots == found.accepted[:, None], found.next_token[:, None], draft_ids)  # [B, G]
        variation = per_slot(total_variation, verifier_probs[:, :-1], draft_probs)  # [B, G]
        weighed, *each = places(self.rows, found, draft_ids.shape[1])  # [B, G]
        values = verifier_weight.double(), prob_at(verifier_probs, ids), prob_at(draft_probs, ids), variation
        self.kept.append(tuple(one[weighed] for one in (*self.states, *values, *each)))
        return found

    def weighed(self, answers: Sequence[Generation]) -> Weighed:
        """All that was weighed of tokens that are in the answers: what ended one cuts off the rest of its cycle."""
        *columns, owner, place = (torch.cat(column) for column in zip(*self.kept, strict=True))
        lengths = torch.tensor([len(one.token_ids) for one in answers], device=owner.device)
        stayed = place < lengths[owner]
        return Weighed(*(column[stayed] for column in (*columns, owner)))


def roll_out(
    verifier: Verifier,
    drafter: Drafter,
    head: EnsembleHead,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    *,
    seed: int,
    temperature: float = 1.0,
    draft_length: int | None = None,
    batch_size: int = 64,
) -> tuple[list[Generation], Weighed]:
    """Answers from the ensemble, and what was weighed in them.

    Law: w p + (1 - w) q at drafted slots; the first token of an answer, and the one behind a block that stayed whole,
    are the verifier's own, as in decoding. Both models and the head run without gradient.

    Args:
        prompts: token ids; one that stands there several times is read once.
    Raises:
        ValueError: a prompt can't run.
    """
    recorder = Recorder(head)
    decoder = WatchedDecoder(verifier, drafter, recorder, draft_length=draft_length, verifier_weight=recorder.weigh)
    answers = decoder.generate(prompts, max_new_tokens, temperature, seed=seed, batch_size=batch_size)
    for prompt, one in zip(prompts, answers, strict=True):
        if not one.token_ids:
            raise ValueError(f"tasks: a prompt of {len(prompt)} tokens can't run: {one.stop}")
    if not recorder.kept:
        raise ValueError(
            f"max_new_tokens={max_new_tokens}: no answer had a drafted token; raise it, or choose other tasks"
        )
    weighed = recorder.weighed(answers)
    return answers, Weighed(*(getattr(weighed, name).clone() for name in Weighed.__annotations__))  # autograd keeps it
