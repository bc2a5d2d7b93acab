"""`regenerate` as a recipe says."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drafter.config import Config
from drafter.config.data import TRAINING_ONLY
from drafter.data.answers import Store
from drafter.data.conversations import as_prompt, fitting, gather
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.authored import by_authors
from drafter.regenerate.local import LocalAnswerer
from drafter.self_prompting import self_prompts
from drafter.sources import BadRows
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
    if data.answered_by == "authors":
        return by_authors(config, path, recipe_of(config), on_progress)
    verifier = Verifier.load(config.verifier.source, torch.float32, choose_device(config.verifier.device))
    verifier.keep_reasoning = data.keep_reasoning
    answerer = LocalAnswerer(
        verifier, data.max_new_tokens, data.batch_size, data.temperature, data.top_p, seed=config.seed
    )

    def draw() -> Drawn:
        bad = BadRows(data.bad_rows)
        write = partial(self_prompts, verifier, seed=config.seed, batch_size=data.batch_size)
        prompts = map(as_prompt, gather(data.sources, config.seed, bad, write))
        room = verifier.config.max_position_embeddings - data.max_new_tokens
        return Drawn(fitting(prompts, verifier.chat_ids, room, bad), bad.counts)

    store = Store(path, {**answerer.origin, "recipe": recipe_of(config)}, data.shard_prompts)
    return answer_all(answerer, draw, store, on_progress)


def recipe_of(config: Config) -> dict[str, Any]:
    """What of a recipe decides its answers."""
    data = {name: value for name, value in asdict(config.data).items() if name not in TRAINING_ONLY}
    return {"seed": config.seed, "data": data}
