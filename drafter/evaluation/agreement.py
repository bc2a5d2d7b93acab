"""Whether drafts change the tokens: greedy answers against plain decoding, in one process and dtype."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from drafter.decode import Generation, SpeculativeDecoder
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

TIE = 1e-4  # logits this close are one value to float32 arithmetic in another order
EXPLAINED = 0.5  # and this close to half precision


@dataclass(frozen=True)
class Agreement:
    """Greedy answers of the decoder against plain ones.

    Attributes:
        mismatches: rows that differ where the verifier's two best logits are no tie.
        ties: rows whose first difference is a tie.
        plain, speculative: the answers.
    """

    mismatches: int
    ties: int
    plain: list[Generation]
    speculative: list[Generation]


def compare_greedy(
    verifier: Verifier, drafter: BlockDiffusionDrafter, prompts: Sequence[list[int]], max_new_tokens: int
) -> Agreement:
    """Decode prompts plainly and speculatively, all at once, and count where the answers differ."""
    together = len(prompts)
    plain = SpeculativeDecoder(verifier).generate(prompts, max_new_tokens, batch_size=together)
    speculative = SpeculativeDecoder(verifier, drafter).generate(prompts, max_new_tokens, batch_size=together)
    return compare_answers(verifier, prompts, plain, speculative)


def compare_answers(
    verifier: Verifier, prompts: Sequence[list[int]], plain: list[Generation], speculative: list[Generation]
) -> Agreement:
    """Count where greedy answers to the same prompts differ."""
    mismatches = ties = 0
    for prompt, one, other in zip(prompts, plain, speculative, strict=True):
        place = first_difference(one.token_ids, other.token_ids)
        if place is not None:
            bound = TIE if verifier.dtype is torch.float32 else EXPLAINED
            tie = margin(verifier, prompt + one.token_ids[:place]) < bound
            ties, mismatches = ties + tie, mismatches + (not tie)
    return Agreement(mismatches, ties, plain, speculative)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Where two answers part, or None if they are the same."""
    if list(one) == list(other):
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(one), len(other)))


@torch.inference_mode()
def margin(verifier: Verifier, ids: list[int]) -> float:
    """The distance between the verifier's two best logits behind `ids`."""
    hidden, _ = verifier.step(torch.tensor([ids], device=verifier.device), verifier.new_cache(1, len(ids)))
    best = verifier.logits(hidden[:, -1]).float().topk(2).values[0]
    return float(best[0] - best[1])
