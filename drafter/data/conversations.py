"""Conversations of all sources → prompts for the verifier, each question once."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from drafter.sources import BadRow, BadRows, Conversation, Message, SelfPrompting, Source
from drafter.verifier.chat import ControlToken, user_turns

log = logging.getLogger(__name__)

Prompt = dict[str, Any]  # source, kind, and prompt (one user's turn) or turns (messages before each answer; and tools)


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
            asked = [*chain(*user_turns(conversation["messages"])), conversation.get("tools")]
            key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()[:16]
            if key in seen:
                repeats += 1
            else:
                seen.add(key)
                yield conversation
    if repeats:
        log.info("left out %d conversations that ask what an earlier one asked", repeats)


def as_prompt(conversation: Conversation) -> Prompt:
    """A conversation as the verifier is asked it: without its author's answers."""
    prompt = {key: value for key, value in conversation.items() if key != "messages"}
    turns = [[_unweighed(message) for message in turn] for turn in user_turns(conversation["messages"])]
    (first, *more) = turns[0]
    plain = len(turns) == 1 and not more and first.keys() == {"role", "content"} and "tools" not in prompt
    return {**prompt, "prompt": first["content"]} if plain else {**prompt, "turns": turns}


def _unweighed(message: Message) -> Message:
    """What an author would not have learnt, the verifier is not told."""
    return {key: value for key, value in message.items() if key != "weight"}


def as_conversation(prompt: Prompt) -> Conversation:
    """A prompt of one user's turn as a conversation."""
    known = {key: value for key, value in prompt.items() if key != "prompt"}
    return {**known, "messages": [{"role": "user", "content": prompt["prompt"]}]}


def fitting(
    prompts: Iterable[Prompt], ids: Callable[[list[Message], list[Any] | None], list[int]], room: int, bad: BadRows
) -> Iterator[Prompt]:
    """The prompts that the chat template takes, of at most `room` tokens up to the first answer.

    Args:
        ids: of messages, with tools, in the chat template.
    """
    for prompt in prompts:
        turns = prompt.get("turns") or [[{"role": "user", "content": prompt["prompt"]}]]
        try:
            try:
                length = len(ids(turns[0], prompt.get("tools")))
                if len(turns) > 1:
                    answer = {"role": "assistant", "content": "."}
                    ids([message for turn in turns for message in (*turn, answer)][:-1], prompt.get("tools"))
            except ControlToken as error:
                raise BadRow("control token", str(error)) from None
            except ValueError as error:
                raise BadRow("unfit for the chat template", str(error)) from None
            if length > room:
                raise BadRow("too long for the verifier", f"{length} tokens, there is room for {room}")
        except BadRow as error:
            bad.add(prompt["source"], error)
        else:
            yield prompt
