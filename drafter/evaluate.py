"""What a drafter is worth: the same tokens, fewer verifier calls, less time. Both sides in one process and dtype."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from drafter.decode import Costs, Generation, SpeculativeDecoder, tokens_per_cycle
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier
from drafter.walk import Walk, walk

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
        if one.token_ids != other.token_ids:
            pairs = zip(one.token_ids, other.token_ids, strict=False)
            shared = next(
                (i for i, (a, b) in enumerate(pairs) if a != b), min(len(one.token_ids), len(other.token_ids))
            )
            tie = margin(verifier, prompt + one.token_ids[:shared]) < TIE
            ties, mismatches = ties + tie, mismatches + (not tie)
    return Agreement(mismatches, ties, plain, speculative)


@torch.inference_mode()
def margin(verifier: Verifier, ids: list[int]) -> float:
    """The distance between the verifier's two best logits behind `ids`."""
    hidden, _ = verifier.step(torch.tensor([ids], device=verifier.device), verifier.new_cache(1, len(ids)))
    best = verifier.logits(hidden[:, -1]).float().topk(2).values[0]
    return float(best[0] - best[1])


@torch.inference_mode()
def measure_costs(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    context: int = 200,
    repeats: int = 9,
    batch_size: int = 1,
    widest: int | None = None,
) -> Costs:
    """Medians of interleaved passes of `batch_size` rows behind `context` tokens.

    Args:
        widest: tokens of the widest verifier pass, for trees; None: a block. Past the block every doubling is measured,
            and what lies between lies on a line.
    """
    size = drafter.block_size
    widest = max(size, widest or 0)
    room = context + widest
    cache, draft_cache = verifier.new_cache(batch_size, room), drafter.new_cache(batch_size, room, verifier.kernel)
    cache.set_lengths([context] * batch_size)
    draft_cache.set_lengths([context] * batch_size)
    ids = torch.full((batch_size, widest), drafter.mask_token_id, device=verifier.device)
    taps = torch.zeros(batch_size, size, drafter.fc.in_features, dtype=verifier.dtype, device=verifier.device)
    head = verifier.head if drafter.vocabulary is None else verifier.head[drafter.vocabulary]

    def draft() -> None:
        drafter.extend(taps, draft_cache)
        (drafter.draft(verifier.embed(ids[:, :size]), draft_cache)[:, 1:] @ head.T).argmax(-1)

    def verify(width: int) -> Callable[[], object]:
        return lambda: verifier.logits(verifier.step(ids[:, :width], cache, drafter.tap_layers)[0]).argmax(-1)

    widths = list(range(1, size + 1))
    while widths[-1] < widest:
        widths.append(min(2 * widths[-1], widest))
    passes = [draft, *(verify(width) for width in widths)]
    seconds: list[list[float]] = [[] for _ in passes]
    for _ in range(repeats):
        for run, kept in zip(passes, seconds, strict=True):
            kept.append(_timed(run, verifier.device))
    medians = [statistics.median(kept[1:]) for kept in seconds]
    return Costs(medians[0], between(widths, medians[1:]))


def between(widths: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Seconds of every width from 1 to the last, on lines between those measured; `widths` ascend from 1."""
    filled = [seconds[0]]
    for (low, high), (first, last) in zip(pairwise(widths), pairwise(seconds), strict=True):
        filled += [first + (last - first) * step / (high - low) for step in range(1, high - low + 1)]
    return filled


def _timed(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


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
    ways: dict[str, Callable[[list[int], int], Generation]] = {
        "transformers generate": lambda prompt, limit: _transformers_generate(verifier, prompt, limit),
        "plain loop": lambda prompt, limit: plain.generate([prompt], limit)[0],
        f"speculative, {drafts}": lambda prompt, limit: speculative.generate([prompt], limit)[0],
    }
    results: dict[str, list[Generation]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for run in ways.values():
        run(prompts[0][:8], 8)  # warm up
    for prompt in prompts:
        for name, run in ways.items():
            start = time.perf_counter()
            run(prompt, 1)
            first = time.perf_counter()
            results[name].append(run(prompt, max_new_tokens))
            seconds[name] += (time.perf_counter() - first) - (first - start)
    return [
        Speed(
            name,
            sum(len(one.token_ids) - 1 for one in found),
            seconds[name],
            sum(one.verifier_calls for one in found),
            tokens_per_cycle(found),
        )
        for name, found in results.items()
    ]


def table(speeds: Sequence[Speed]) -> str:
    """Ways of decoding, one per line."""
    lines = [f"{'':<24}{'tokens/s':>10}{'verifier calls':>16}{'tokens/cycle':>14}"]
    for one in speeds:
        lines.append(
            f"{one.name:<24}{one.tokens_per_second:>10.1f}{one.verifier_calls:>16}{one.tokens_per_cycle:>14.2f}"
        )
    return "\n".join(lines)
