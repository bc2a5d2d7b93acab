"""`regenerate` as a recipe says."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drafter.config import Config
from drafter.config.data import TRAINING_ONLY
from drafter.data.answers import Store
from drafter.data.prompts import standard_library
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.local import LocalAnswerer
from drafter.self_prompting import self_prompts
from drafter.verifier import Verifier, choose_device


def regenerate_recipe(config: Config, path: Path, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Make the answers of a recipe's data section, in float32; a killed run goes on where it was.

    Returns:
        what the answers depend on, and counts.
    Raises:
        ValueError: `path` exists already or holds answers of another recipe, or a setting does not fit.
    """
    data = config.data
    if path.is_file():
        raise ValueError(f"data.answers={str(path)!r}: exists already; delete it, or name another with --out")
    verifier = Verifier.load(config.verifier.source, torch.float32, choose_device(config.verifier.device))
    answerer = LocalAnswerer(
        verifier, data.max_new_tokens, data.batch_size, data.temperature, data.top_p, seed=config.seed
    )

    def draw() -> Drawn:
        prompts = standard_library(data.prompts, data.max_prompt_characters, config.seed)
        if chats := data.prompts.get("chat", 0):
            prompts += self_prompts(verifier, chats, config.seed, data.batch_size)
        return Drawn(prompts)

    store = Store(path, {**answerer.origin, "recipe": recipe_of(config)}, data.shard_prompts)
    return answer_all(answerer, draw, store, on_progress)


def recipe_of(config: Config) -> dict[str, Any]:
    """What of a recipe decides its answers."""
    data = {name: value for name, value in asdict(config.data).items() if name not in TRAINING_ONLY}
    return {"seed": config.seed, "data": data}
