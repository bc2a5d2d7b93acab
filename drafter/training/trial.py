"""The trained drafter at work: test prompts decoded plainly and with it, exactly and against the clock."""

from pathlib import Path
from typing import Any

from drafter.config import DecodingConfig
from drafter.decode import Costs, SpeculativeDecoder, tokens_per_cycle
from drafter.evaluation.agreement import compare_answers, compare_greedy
from drafter.evaluation.measured import table
from drafter.evaluation.parts import best_draft_length, measure_costs
from drafter.evaluation.race import race_plain
from drafter.evaluation.walk import walk, walk_along
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

SHOWN = ("name", "tokens_per_second", "verifier_calls", "tokens_per_cycle")


def decode_both_ways(
    settings: DecodingConfig,
    prompts: list[list[int]],
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    fast: Verifier,
    exported: Path,
    validation: list[list[int]],
    test: list[list[int]],
) -> dict[str, Any]:
    """Decode prompts plainly and speculatively: exactly, then against the clock.

    Args:
        verifier: in float32, or in half precision where one copy was asked for: a tie is then a wider margin.
        drafter: in float32.
        fast, exported: the verifier in the precision of timed decoding, and where the drafter was exported.
        validation, test: matches of the drafter at every anchor; where the recipe names no draft length, validation
            rows choose it by the costs measured here, test rows say what it is worth.
    """
    agreement = compare_greedy(verifier, drafter, prompts, settings.max_new_tokens)
    same = walk_along(agreement.plain, prompts, verifier, drafter)
    compared = [agreement]
    if settings.tree_nodes:
        decoder = SpeculativeDecoder(verifier, drafter, tree_nodes=settings.tree_nodes)
        answers = decoder.generate(prompts, settings.max_new_tokens, batch_size=len(prompts))
        compared.append(compare_answers(verifier, prompts, agreement.plain, answers))
    mismatches, ties = sum(one.mismatches for one in compared), sum(one.ties for one in compared)

    # read, not cast: `.to` would round the frequencies of the positions, too
    quick = BlockDiffusionDrafter.from_pretrained(exported, dtype=fast.dtype, device=fast.device)
    wide = measure_costs(fast, quick, widest=1 + (settings.tree_nodes or 0))
    costs = Costs(wide.draft, wide.verify[: quick.block_size])
    length = settings.draft_length or best_draft_length(costs, validation)
    speeds = race_plain(fast, quick, prompts, settings.max_new_tokens, length, settings.tree_nodes)
    plain, speculative = max(speeds[:2], key=lambda one: one.tokens_per_second), speeds[2]
    ideal = costs.ideal(walk(test, length).tokens_per_cycle, length)
    if settings.tree_nodes:
        ideal = wide.ideal(speculative.tokens_per_cycle, settings.tree_nodes)
    print(table([one.figures() for one in speeds], SHOWN))
    print(
        f"{str(verifier.dtype).removeprefix('torch.')}: {mismatches} mismatches, {ties} ties in {len(prompts)} prompts"
    )
    return {
        "tokens_per_cycle_decoded": tokens_per_cycle(agreement.speculative),
        "tokens_per_cycle_walk_of_decoded": same.tokens_per_cycle,
        "greedy_mismatches": mismatches,
        "greedy_ties": ties,
        "verifier_calls": speculative.verifier_calls,
        "verifier_calls_plain": plain.verifier_calls,
        "speedup": speculative.tokens_per_second / plain.tokens_per_second,
        "speedup_ideal": ideal,
        "draft_length": length,
        "tree_nodes": settings.tree_nodes,
        "tokens_per_cycle_timed": speculative.tokens_per_cycle,
        "tokens_per_second": {one.name: one.tokens_per_second for one in speeds},
        "milliseconds": {"draft": costs.draft * 1e3, "verify": [seconds * 1e3 for seconds in costs.verify]},
    }
