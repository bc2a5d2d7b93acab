"""What a drafter is worth: the same tokens, fewer verifier calls, less time. Both sides in one process and dtype."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from drafter.decode import Costs, Generation, SpeculativeDecoder
from drafter.evaluation.timing import Way, race
from drafter.evaluation.walk import Walk, walk
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

TIE = 1e-4  # logits this close are one value to float32 arithmetic in another order


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
            tie = margin(verifier, prompt + one.token_ids[:place]) < TIE
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


def best_draft_length(costs: Costs, leading: Sequence[list[int]]) -> tuple[int, Walk]:
    """The draft length with the highest ideal speed-up along known answers, and its walk.

    Args:
        leading: matches of whole blocks, as `leading_matches` finds them.
    """
    walks = {length: walk(leading, length) for length in range(1, len(costs.verify))}
    length = max(walks, key=lambda one: costs.ideal(walks[one].tokens_per_cycle, one))
    return length, walks[length]


@dataclass(frozen=True)
class Speed:
    """One way of decoding some prompts, summed over them.

    Attributes:
        tokens, seconds: behind the first token of each answer, which the prefill gives whatever decodes after it.
    """

    name: str
    tokens: int
    seconds: float
    verifier_calls: int
    tokens_per_cycle: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def _transformers_generate(verifier: Verifier, prompt: list[int], max_new_tokens: int) -> Generation:
    ids = torch.tensor([prompt], device=verifier.device)
    with verifier.plain_attention() as model:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(verifier.stop_ids),
            pad_token_id=verifier.stop_ids[0] if verifier.stop_ids else None,
        )
    answer = out[0, len(prompt) :].tolist()
    return Generation(answer, emitted=[1] * (len(answer) - 1), verifier_calls=len(answer))


def measure_speed(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    draft_length: int,
    tree_nodes: int | None = None,
) -> list[Speed]:
    """Greedy, batch 1: transformers' generate, our loop without drafts, our loop with them; prompt by prompt in turn.

    Each runs once up to the first token and once to the end; the difference is the time of decoding.

    Args:
        tree_nodes: drafts of a tree in place of `draft_length` drafts in a row.
    """
    plain = SpeculativeDecoder(verifier)
    how = {"tree_nodes": tree_nodes} if tree_nodes else {"draft_length": draft_length}
    speculative = SpeculativeDecoder(verifier, drafter, **how)  # type: ignore[arg-type]
    drafts = f"a tree of {tree_nodes}" if tree_nodes else f"{draft_length} drafts"
    ways: dict[str, Way] = {
        "transformers generate": lambda prompts, limit: [
            _transformers_generate(verifier, one, limit) for one in prompts
        ],
        "plain loop": plain.generate,
        f"speculative, {drafts}": speculative.generate,
    }
    laps = race(ways, [[prompt] for prompt in prompts], max_new_tokens, 1, verifier.device)
    return [
        Speed(
            name,
            lap.tokens,
            lap.seconds,
            sum(one.verifier_calls for one in lap.answers),
            lap.tokens_per_cycle,
        )
        for name, lap in laps.items()
    ]


def table(speeds: Sequence[Speed]) -> str:
    """Ways of decoding, one per line."""
    lines = [f"{'':<24}{'tokens/s':>10}{'verifier calls':>16}{'tokens/cycle':>14}"]
    for one in speeds:
        lines.append(
            f"{one.name:<24}{one.tokens_per_second:>10.1f}{one.verifier_calls:>16}{one.tokens_per_cycle:>14.2f}"
        )
    return "\n".join(lines)
