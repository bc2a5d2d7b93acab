"""`regenerate` as a recipe says."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drafter.answers import Store, check_free
from drafter.config import Config
from drafter.config.data import TRAINING_ONLY
from drafter.config.server import HOW
from drafter.data.conversations import as_prompt, fitting, gather
from drafter.machine.devices import choose_device
from drafter.regenerate.answering import Answerer, Drawn, answer_all
from drafter.regenerate.authored import by_authors
from drafter.regenerate.local import LocalAnswerer
from drafter.regenerate.self_prompting import self_prompts
from drafter.regenerate.server import ServerAnswerer
from drafter.sources import BadRows, SelfPrompting
from drafter.verifier import Verifier
from drafter.verifier.chat import prompt_ids
from drafter.verifier.tokenizer import context_length, load_tokenizer


def regenerate_recipe(config: Config, path: Path, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Make the answers of a recipe's data section, here or by a server; a killed run goes on where it was.

    Returns:
        what the answers depend on, and counts.
    Raises:
        ValueError: `path` exists already or holds answers of another recipe, or a setting does not fit.
    """
    data = config.data
    check_free(path)
    if data.answered_by == "authors":
        return by_authors(config, path, recipe_of(config), on_progress)
    answerer, ids, context, write = (by_verifier if data.server.url is None else by_server)(config)

    def draw() -> Drawn:
        bad = BadRows(data.bad_rows)
        prompts = map(as_prompt, gather(data.sources, config.seed, bad, write))
        return Drawn(fitting(prompts, ids, context - data.max_new_tokens, bad), bad.counts)

    store = Store(path, {**answerer.origin, "recipe": recipe_of(config)}, data.shard_prompts)
    return answer_all(answerer, draw, store, on_progress)


Parts = tuple[Answerer, Callable[..., list[int]], int, Callable[[int], list[dict[str, Any]]]]


def by_verifier(config: Config) -> Parts:
    """Who answers, ids of a conversation, the context's length, and who writes prompts: all the verifier here."""
    data = config.data
    config.verifier.require_body("answering here", "name a server (data.server.url)")
    dtype, device = getattr(torch, config.verifier.dtype), choose_device(config.verifier.device)
    verifier = Verifier.load(config.verifier.source, dtype, device, config.verifier.attention)
    verifier.keep_reasoning = data.keep_reasoning
    answerer = LocalAnswerer(
        verifier, data.max_new_tokens, data.batch_size, data.temperature, data.top_p, seed=config.seed
    )
    write = partial(self_prompts, verifier, seed=config.seed, batch_size=data.batch_size)
    return answerer, verifier.chat_ids, verifier.context_length, write


def by_server(config: Config) -> Parts:
    """The same, by a server, with the verifier's tokenizer here, and no weights."""
    data = config.data
    for at, source in enumerate(data.sources):
        if isinstance(source, SelfPrompting):
            raise ValueError(
                f"data.sources[{at}].kind='self_prompting': a server is given whole turns only; leave it out, or leave "
                "out data.server"
            )
    tokenizer = load_tokenizer(config.verifier.source)
    answerer = ServerAnswerer(
        data.server,
        tokenizer,
        data.max_new_tokens,
        data.temperature,
        data.top_p,
        seed=config.seed,
        keep_reasoning=data.keep_reasoning,
    )

    def ids(messages: list[dict[str, Any]], tools: list[Any] | None) -> list[int]:
        return prompt_ids(tokenizer, messages, tools=tools, keep_reasoning=data.keep_reasoning)

    return answerer, ids, context_length(config.verifier.source), lambda count: []


def recipe_of(config: Config) -> dict[str, Any]:
    """What of a recipe decides its answers."""
    data = {name: value for name, value in asdict(config.data).items() if name not in TRAINING_ONLY}
    data["server"] = {name: value for name, value in data["server"].items() if name not in HOW}
    return {"seed": config.seed, "data": data}
