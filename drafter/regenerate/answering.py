"""The run over all shards: draw the prompts once, let an answerer work on each shard, count."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from drafter.answers import OpenShard, Store, digest
from drafter.regenerate.local import LocalAnswerer
from drafter.verifier import Verifier

log = logging.getLogger(__name__)
NAMED = 20


class Answerer(Protocol):
    """Who answers: the verifier here, or a server."""

    origin: dict[str, Any]

    def answer(self, shard: OpenShard, on_done: Callable[[], None]) -> None:
        """Give every missing prompt of the shard its rows, or a failure.

        Args:
            on_done: called after each prompt.
        """


@dataclass
class Drawn:
    """Prompts, and the rows of their sources that became none, by reason (known once the prompts are exhausted)."""

    prompts: Iterable[Mapping[str, Any]]
    bad_rows: Mapping[str, int] = field(default_factory=dict)


def answer_all(
    answerer: Answerer,
    draw: Callable[[], Drawn],
    store: Store,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Answer all prompts of a store; a killed run goes on where it was.

    Args:
        draw: makes the prompts; not called where they are kept already.
        on_progress: called with the number of prompts done and of all prompts.
    Returns:
        what the answers depend on, and counts.
    """
    with store:
        if not store.drawn:
            drawn = draw()
            store.draw(drawn.prompts, drawn.bad_rows)
        total = sum(shard.prompts for shard in store.manifest.shards)
        done = sum(shard.prompts for shard in store.manifest.shards if shard.sha256)
        on_progress(done, total)

        def step() -> None:
            nonlocal done
            done += 1
            on_progress(done, total)

        named = 0
        for shard in store.unfinished():
            with closing(shard):
                for _ in range(len(shard.prompts) - len(shard.missing)):
                    step()
                answerer.answer(shard, step)
                for failure in shard.failures:
                    named += 1
                    if named <= NAMED:
                        log.warning("prompt %(prompt)d (%(source)s): %(reason)s: %(detail)s", failure)
                shard.finish()
        return store.finish()


def regenerate(
    verifier: Verifier,
    prompts: list[Any],
    path: Path,
    max_new_tokens: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Answer a list of prompts greedily by the verifier here, into a file or a folder.

    Raises:
        ValueError: answers of another list or verifier are in the way, or a prompt and its answer exceed the context.
    """
    answerer = LocalAnswerer(verifier, max_new_tokens, batch_size)
    origin = {**answerer.origin, "asked": digest(prompts), "max_new_tokens": max_new_tokens}
    return answer_all(answerer, lambda: Drawn(prompts), Store(path, origin), on_progress)
