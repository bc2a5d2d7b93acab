"""What an export does: the verifier's own tokens, no leak through the mask, as many tokens per cycle as in training."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drafter.blocks import slot_ids
from drafter.check.report import Finding, Report
from drafter.decode import tokens_per_cycle
from drafter.evaluation.agreement import compare_greedy
from drafter.evaluation.probe import NEW_TOKENS
from drafter.export.record import keeps_reasoning
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

TOLERANCE = 0.15
SLACK = 3  # tokens by which rounding to bfloat16 may change what a probe accepts
DEFAULT_PROMPTS = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences what a hash table is.",
    "List three uses of a paper clip.",
)


def check_behaviour(
    directory: Path,
    source: str,
    record: dict[str, Any],
    report: Report,
    tolerance: float,
    device: str = "cpu",
    verifier_dtype: str = "float32",
) -> None:
    """Load both, the drafter in float32, decode, compare; findings, notes and numbers go into `report`."""
    verifier = Verifier.load(source, getattr(torch, verifier_dtype), device, "sdpa")
    verifier.keep_reasoning = keeps_reasoning(record)
    drafter = BlockDiffusionDrafter.from_pretrained(directory, dtype=torch.float32, device=device)
    recorded = record.get("verifier")
    if recorded is None:
        report.notes.append("training.json names no verifier: whether this is the one of training was not checked")
    elif not verifier.is_of(recorded):
        report.findings.append(
            Finding(
                "verifier",
                f"verifier={source!r}: has other weights than that of training ({verifier.fingerprint()}, not "
                f"{recorded}); name the verifier that the drafter was trained against",
            )
        )
    report.findings += leaks(drafter, verifier)
    _decode(drafter, verifier, record, report, tolerance)


@torch.no_grad()
def leaks(drafter: BlockDiffusionDrafter, verifier: Verifier) -> Iterator[Finding]:
    """Disturb what a block must not see, and what it must; compare the training path with the serving path."""
    size, generator = drafter.block_size, torch.Generator().manual_seed(0)
    length = size + 16
    ids = torch.randint(0, verifier.head.shape[0], (1, length), generator=generator).to(verifier.device)
    anchors = torch.tensor([[7, 12]], device=verifier.device)
    taps = verifier.taps(ids, drafter.tap_layers).to(drafter.dtype, copy=True)  # [1, S, T*D]
    block = verifier.embed(slot_ids(ids, anchors, size, drafter.mask_token_id)).to(
        drafter.dtype, copy=True
    )  # [1, 2, K, D]
    plain = drafter(block, taps, anchors)[:, 0]  # [1, K, D]

    later = taps.clone()
    later[:, 7:] = later[:, 7:].flip(1) + 1
    other = block.clone()
    other[:, 1] += 1
    if not torch.equal(drafter(other, later, anchors)[:, 0], plain):
        yield Finding("mask", "mask: a block sees context at or after its anchor, or another block; correct block_mask")
    last = block.clone()
    last[:, 0, -1] += 1
    same = (drafter(last, taps, anchors)[:, 0, :-1] == plain[:, :-1]).all(-1)  # [1, G]
    if all(layer.causal for layer in drafter.layers):
        if not bool(same.all()):
            yield Finding("mask", "mask: a slot sees the slots behind it; correct is_causal and block_mask")
    elif bool(same.any()):
        yield Finding("mask", "mask: a slot does not see the slots behind it; correct is_causal and block_mask")
    earlier = taps.clone()
    earlier[:, :7] = earlier[:, :7].flip(1) + 1
    if torch.equal(drafter(block, earlier, anchors)[:, 0], plain):
        yield Finding("mask", "mask: a block does not see its context; correct fc.weight and block_mask")

    cache = drafter.new_cache(1, length)
    drafter.extend(taps[:, :7], cache)
    cache.set_lengths([7])
    served = drafter.draft(block[:, 0], cache)
    if not torch.allclose(served, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max())):
        yield Finding("cache", "cache: the serving path computes other states than the training path; correct draft()")


def _decode(
    drafter: BlockDiffusionDrafter, verifier: Verifier, record: Mapping[str, Any], report: Report, tolerance: float
) -> None:
    probe = record.get("probe") or {}
    prompts = probe.get("prompts") or default_prompts(verifier)
    agreement = compare_greedy(verifier, drafter, prompts, probe.get("max_new_tokens", NEW_TOKENS))
    found = tokens_per_cycle(agreement.speculative)
    cycles = sum(len(one.emitted) for one in agreement.speculative)
    report.measured |= {
        "prompts": len(prompts),
        "greedy_mismatches": agreement.mismatches,
        "greedy_ties": agreement.ties,
        "tokens_per_cycle": found,
        "cycles": cycles,
    }
    if agreement.mismatches:
        report.findings.append(
            Finding(
                "greedy",
                f"greedy: {agreement.mismatches} of {len(prompts)} answers differ from plain decoding; the "
                "decoder is at fault, not the export: report it",
            )
        )
    recorded = probe.get("tokens_per_cycle")
    if recorded is None:
        report.notes.append("training.json holds no probe: tokens per cycle were not compared with those of training")
        return
    report.measured["tokens_per_cycle_in_training"] = recorded
    allowed = tolerance * (recorded - 1) + SLACK / max(cycles, 1)
    if not abs(found - recorded) <= allowed:
        report.findings.append(
            Finding(
                "tokens_per_cycle",
                f"tokens_per_cycle={found:.3f}: {recorded:.3f} in training on the same prompts (at most {allowed:.3f} "
                "apart); the weights or the config are not those of training: export the checkpoint again",
            )
        )


def default_prompts(verifier: Verifier) -> Sequence[list[int]]:
    """Ids of a few prompts, in the chat template where there is one."""
    if verifier.tokenizer is not None and verifier.tokenizer.chat_template is not None:
        return [verifier.chat_ids(prompt) for prompt in DEFAULT_PROMPTS]
    return [verifier.tokenizer.encode(prompt) for prompt in DEFAULT_PROMPTS]
