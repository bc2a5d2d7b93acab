"""Prompts → the verifier's own answers, batched, cached and resumable."""

from collections.abc import Callable
from pathlib import Path

import torch

from drafter.config import Config, require
from drafter.data.answers import Parts, digest
from drafter.data.prompts import Prompt, standard_library
from drafter.decode import Generation, SpeculativeDecoder
from drafter.self_prompting import self_prompts
from drafter.verifier import Verifier, choose_device


def regenerate(
    verifier: Verifier,
    prompts: list[Prompt],
    path: Path,
    max_new_tokens: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, object]:
    """Answer every prompt greedily through the verifier's chat template and write `path`.

    A killed run goes on where its last part ended; a changed recipe or verifier is refused while parts remain.

    Args:
        on_progress: called with the number of finished rows and of all rows.
    Returns:
        the manifest: what the answers depend on, and counts.
    Raises:
        ValueError: a prompt and its answer exceed the verifier's context; before anything is answered.
    """
    manifest: dict[str, object] = {
        "verifier": verifier.fingerprint(),
        "dtype": str(verifier.dtype).removeprefix("torch."),
        "prompts": digest(prompts),
        "max_new_tokens": max_new_tokens,
        "rows": len(prompts),
    }
    parts = Parts(path, manifest)
    todo = [index for index in range(len(prompts)) if index not in parts.done]
    finished = len(parts.done)
    on_progress(finished, len(prompts))

    def keep(position: int, generation: Generation) -> None:
        nonlocal finished
        index = todo[position]
        parts.add(index, {**prompts[index], "answer_ids": generation.token_ids, "stop": generation.stop})
        finished += 1
        on_progress(finished, len(prompts))

    questions = [verifier.chat_ids(prompts[index]["prompt"]) for index in todo]
    longest = max(map(len, questions), default=0)
    remedy = f"a prompt has {longest} tokens, the verifier's context is {verifier.config.max_position_embeddings}"
    fits = longest + max_new_tokens <= verifier.config.max_position_embeddings
    require(fits, "data.max_new_tokens", max_new_tokens, f"{remedy}; lower it or data.max_prompt_characters")
    SpeculativeDecoder(verifier).generate(questions, max_new_tokens=max_new_tokens, batch_size=batch_size, on_end=keep)
    parts.finish()
    return manifest


def regenerate_recipe(config: Config, path: Path, on_progress: Callable[[int, int], None]) -> dict[str, object]:
    """`regenerate` as a recipe's data section says, in float32.

    Raises:
        ValueError: `path` exists already, or a setting does not fit.
    """
    if path.exists():
        raise ValueError(f"data.answers={str(path)!r}: exists already; delete it, or name another with --out")
    data = config.data
    verifier = Verifier.load(config.verifier.source, torch.float32, choose_device(config.verifier.device))
    prompts = standard_library(data.prompts, data.max_prompt_characters, config.seed)
    if chats := data.prompts.get("chat", 0):
        prompts += self_prompts(verifier, chats, config.seed, data.batch_size)
    if not prompts:
        raise ValueError("data.prompts: asks for none; give a kind a count above 0")
    return regenerate(verifier, prompts, path, data.max_new_tokens, data.batch_size, on_progress)
