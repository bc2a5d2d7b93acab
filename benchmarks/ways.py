"""Ways of decoding that `decoding.py` lets take turns: transformers', ours, vLLM's."""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from vllm_peer import Peer, settings_of

from drafter.decode import Generation, SpeculativeDecoder
from drafter.evaluation.race import Way
from drafter.export import convert
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier
from drafter.verifier.conversion import resolve

PLAIN, LOOP, DFLASH, LOOKUP, OURS, ENGINE, DRAFTED = WAYS = (
    "transformers generate",
    "our loop, no drafts",
    "transformers DFlash assistant",
    "transformers prompt lookup",
    "ours",
    "vLLM",
    "vLLM, same drafter",
)
ALONE = (DFLASH, LOOKUP)  # batch 1 only
SERVED = (ENGINE, DRAFTED)  # where its environment is
ENGINE_CONTEXT = 4096
LOOKUP_TOKENS = 10  # transformers' documentation


def through_transformers(verifier: Verifier, **settings: Any) -> Way:
    """Its greedy `generate`, left-padded; every forward pass of the model counts as a call."""

    def decode(prompts: Sequence[list[int]], limit: int) -> list[Generation]:
        width = max(map(len, prompts))
        pad = verifier.stop_ids[0] if verifier.stop_ids else 0
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=verifier.device)
        seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        calls: list[int] = []
        hook = verifier.model.register_forward_hook(lambda *_: calls.append(1))
        try:
            with verifier.plain_attention() as model:
                out = model.generate(
                    ids,
                    attention_mask=seen.to(verifier.device),
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=list(verifier.stop_ids),
                    pad_token_id=pad,
                    **settings,
                )
        finally:
            hook.remove()
        answers = [_cut(row, verifier.stop_ids) for row in out[:, width:].tolist()]
        return [Generation(ids, verifier_calls=min(len(calls), len(ids))) for ids in answers]

    return decode


def _cut(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    stop = next((i for i, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[: stop + 1]


def through_us(verifier: Verifier, drafter: BlockDiffusionDrafter | None, length: int | None) -> Way:
    decoder = SpeculativeDecoder(verifier, drafter, draft_length=length)
    return lambda prompts, limit: decoder.generate(prompts, limit, batch_size=len(prompts))


def through_vllm(peer: Peer, stop_ids: Sequence[int]) -> Way:
    """A vLLM process; with drafts it counts passes over all rows together, and the first answer carries them."""

    def decode(prompts: Sequence[list[int]], limit: int) -> list[Generation]:
        answers, drafts = peer.answer(prompts, limit, stop_ids)
        calls = [1 + drafts] + [1] * (len(answers) - 1) if peer.drafts else map(len, answers)
        return [Generation(ids, verifier_calls=count) for ids, count in zip(answers, calls, strict=True)]

    return decode


def start_vllm(options: argparse.Namespace, verifier: Verifier, drafter: BlockDiffusionDrafter) -> dict[str, Peer]:
    """vLLM without and with the drafter; nothing, and the reason printed, where it can't be a peer."""
    if options.vllm is None:
        print("vLLM: left out, no --vllm names a Python that has it")
        return {}
    dtype, folder = str(verifier.dtype).removeprefix("torch."), options.out / "vllm"
    layout = "canonical" if drafter.vocabulary is None else "speculators"  # which carries the draft vocabulary
    where, context = resolve(options.verifier), min(verifier.context_length, ENGINE_CONTEXT)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / layout, ignore_errors=True)
    convert(options.drafter, folder / layout, layout, dtype=None, verifier=where)
    length = options.draft_length or drafter.draft_length
    found: dict[str, Peer] = {}
    for name, export in ((ENGINE, None), (DRAFTED, str(folder / layout))):
        settings = settings_of(where, dtype, context, max(options.batch_sizes), export, length)
        found[name] = Peer(options.vllm, settings, options.threads, folder / f"{len(found)}.log")
    if found[ENGINE].device != verifier.device.type:
        print(f"vLLM: left out, its build is for {found[ENGINE].device}, not {verifier.device.type}")
        stop_vllm(found)
        return {}
    return found


def stop_vllm(peers: dict[str, Peer]) -> None:
    for peer in peers.values():
        peer.close()


def assistant_of(drafter: str, verifier: Verifier) -> Any:
    """The same drafter as transformers loads it."""
    with tempfile.TemporaryDirectory() as folder:
        convert(drafter, Path(folder) / "native", "transformers", dtype=None)
        return AutoModel.from_pretrained(Path(folder) / "native", dtype=verifier.dtype).to(verifier.device)


def all_ways(
    source: str, verifier: Verifier, drafter: BlockDiffusionDrafter, length: int, peers: dict[str, Peer]
) -> dict[str, Way]:
    """Every way, by name, in the order in which they are told.

    Args:
        source: of the drafter.
        length: tokens that ours drafts.
    """
    assistant = assistant_of(source, verifier)
    return {
        PLAIN: through_transformers(verifier),
        LOOP: through_us(verifier, None, None),
        DFLASH: through_transformers(verifier, assistant_model=assistant, speculation_type="dflash"),
        LOOKUP: through_transformers(verifier, prompt_lookup_num_tokens=LOOKUP_TOKENS),
        OURS: through_us(verifier, drafter, length),
        **{name: through_vllm(peer, verifier.stop_ids) for name, peer in peers.items()},
    }
