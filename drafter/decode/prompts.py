"""Prompts, text or token ids, turned into rows to be answered; one that can't run says why."""

from collections import deque
from collections.abc import Callable, Sequence
from operator import index as integer
from typing import Any

from drafter.decode.answering import Answering
from drafter.decode.generation import Generation
from drafter.decode.text import Transcript


def read_prompts(
    prompts: Sequence[str | Sequence[int]], tokenizer: Any, vocabulary: int, context: int, max_new_tokens: int
) -> list[Answering]:
    """One row per prompt; `result.stop` of one that can't run holds the reason.

    Args:
        tokenizer: for text; None where there is none.
        vocabulary: ids of the model.
        context: tokens that it reads at most.
    """
    rows = []
    for index, prompt in enumerate(prompts):
        ids, reason = _read(prompt, tokenizer, vocabulary)
        if not reason and len(ids) + max_new_tokens > context:
            reason = f"{len(ids)} prompt tokens + max_new_tokens={max_new_tokens} exceed the context of {context}"
        rows.append(Answering(index, ids, Generation(stop=reason)))
    return rows


def to_answer(
    rows: Sequence[Answering],
    tokenizer: Any,
    stop: Sequence[str],
    on_end: Callable[[int, Generation], None] | None,
) -> deque[Answering]:
    """The rows that can run, as text too where there is a tokenizer; who listens is told of the others."""
    waiting: deque[Answering] = deque()
    for row in rows:
        row.transcript = None if tokenizer is None else Transcript(tokenizer, stop)
        if not row.ended:
            waiting.append(row)
        elif on_end is not None:
            on_end(row.index, row.result)
    return waiting


def _read(prompt: str | Sequence[int], tokenizer: Any, vocabulary: int) -> tuple[list[int], str]:
    """Token ids of a prompt, and why it can't be read, or nothing."""
    if isinstance(prompt, str) and tokenizer is None:
        return [], "the prompt is text, and the verifier has no tokenizer"
    try:
        ids = [integer(token) for token in (tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)]
    except (TypeError, ValueError) as error:  # no text that a tokenizer takes, or no ids
        return [], f"the prompt can't be read ({error})"
    if not ids:
        return ids, "the prompt is empty"
    if outside := [token for token in ids if not 0 <= token < vocabulary]:
        return ids, f"prompt token {outside[0]} is no id of the verifier, 0 to {vocabulary - 1}"
    return ids, ""
