"""Conversations of all sources → prompts for the verifier, each text once."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from drafter.chat import user_turns
from drafter.sources import BadRows, Conversation, SelfPrompting, Source

log = logging.getLogger(__name__)

Prompt = dict[str, Any]  # source, kind, and prompt (one user's turn) or messages (and tools)


def gather(
    sources: Sequence[Source], seed: int, bad: BadRows, write: Callable[[int], Iterable[Prompt]]
) -> Iterator[Conversation]:
    """Conversations of all sources, in order; one that asks what an earlier one asked is left out.

    Args:
        write: how many → prompts that the verifier writes itself.
    Raises:
        ValueError: a source is missing, has too little, or holds a bad row that is to be fatal.
    """
    seen: set[bytes] = set()
    repeats = 0
    for source in sources:
        if isinstance(source, SelfPrompting):
            found: Iterable[Conversation] = map(as_conversation, write(source.count))
        else:
            found = source.conversations(seed, bad)
        for conversation in found:
            asked = [message["content"] for message in chain(*user_turns(conversation["messages"]))]
            key = hashlib.sha256(json.dumps(asked).encode()).digest()[:16]
            if key in seen:
                repeats += 1
            else:
                seen.add(key)
                yield conversation
    if repeats:
        log.info("left out %d conversations that ask what an earlier one asked", repeats)


def as_prompt(conversation: Conversation) -> Prompt:
    """A conversation as the verifier is asked it: without what its author answered last."""
    prompt = {key: value for key, value in conversation.items() if key != "messages"}
    messages = list(conversation["messages"])
    while messages and messages[-1]["role"] not in ("user", "tool"):
        messages.pop()
    single = len(messages) == 1 and messages[0].keys() == {"role", "content"} and "tools" not in prompt
    return {**prompt, "prompt": messages[0]["content"]} if single else {**prompt, "messages": messages}


def as_conversation(prompt: Prompt) -> Conversation:
    """The messages of a prompt, whichever way it holds them."""
    known = {key: value for key, value in prompt.items() if key != "prompt"}
    return known if "messages" in known else {**known, "messages": [{"role": "user", "content": prompt["prompt"]}]}
