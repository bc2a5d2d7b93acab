"""Ways of decoding against each other: same prompts, same process, taking turns.

A slow minute of the machine then slows all of them. The time up to the first token is taken apart, since the prefill is
the same whatever decodes after it.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from drafter.decode import Generation, SpeculativeDecoder
from drafter.evaluation.measured import Measured
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

T = TypeVar("T")
Way = Callable[[Sequence[list[int]], int], list[Generation]]  # (prompts decoded together, longest answer) -> answers


def race(
    ways: Mapping[str, Way],
    rounds: Sequence[Sequence[list[int]]],
    max_new_tokens: int,
    repeats: int,
    device: torch.device,
    between: Callable[[], object] = lambda: None,
) -> dict[str, Measured]:
    """Let each way decode each round's prompts, `repeats` times, in turn.

    Args:
        rounds: prompts that are decoded together.
        between: called once before each turn of all ways, as measurements of their parts are.
    Returns:
        Each way behind the first tokens; its seconds are the median of a round's repeats, summed over rounds; NaN where
        a round took no longer than its prefill, which no clock can tell apart.
    """
    for way in ways.values():
        way([prompt[:8] for prompt in rounds[0]], 8)  # warm up
    answers: dict[str, list[Generation]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for prompts in rounds:
        taken: dict[str, list[float]] = {name: [] for name in ways}
        if device.type == "cuda":  # graphs are captured, kernels chosen, for these very shapes
            for way in ways.values():
                way(prompts, max_new_tokens)
        for repeat in range(repeats):
            between()
            for name, way in ways.items():
                first, _ = timed(device, way, prompts, 1)
                whole, made = timed(device, way, prompts, max_new_tokens)
                taken[name].append(whole - first)
                answers[name] += made if repeat == 0 else []
        for name, found in taken.items():
            took = statistics.median(found)
            seconds[name] += took if took > 0 else math.nan
    return {name: Measured.behind_prefill(name, answers[name], seconds[name]) for name in ways}


def timed(device: torch.device, run: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds of `run(*arguments)`, the device's work included, and what it returned."""
    start = time.perf_counter()
    result = run(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def race_plain(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    draft_length: int,
    tree_nodes: int | None = None,
) -> list[Measured]:
    """Greedy, batch 1: transformers' generate, our loop without drafts, our loop with them; prompt by prompt in turn.

    Args:
        tree_nodes: drafts of a tree in place of `draft_length` drafts in a row.
    """
    plain = SpeculativeDecoder(verifier)
    how = {"tree_nodes": tree_nodes} if tree_nodes else {"draft_length": draft_length}
    speculative = SpeculativeDecoder(verifier, drafter, **how)  # type: ignore[arg-type]
    drafts = f"a tree of {tree_nodes}" if tree_nodes else f"{draft_length} drafts"
    ways: dict[str, Way] = {
        "transformers generate": lambda some, limit: [_transformers_generate(verifier, one, limit) for one in some],
        "plain loop": plain.generate,
        f"speculative, {drafts}": speculative.generate,
    }
    return list(race(ways, [[prompt] for prompt in prompts], max_new_tokens, 1, verifier.device).values())


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
    behind = len(answer) - 1
    return Generation(answer, accepted=[0] * behind, emitted=[1] * behind, verifier_calls=len(answer))
