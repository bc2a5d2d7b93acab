"""Reasoning in conversations: what assistants think before they answer, between `<think>` and `</think>`."""

import re
from typing import Any

from drafter.sources.base import Message

REASONING = ("reasoning_content", "reasoning", "thinking")
TAGS = ("<think>", "</think>")
THOUGHT = re.compile(r"^\s*(?:<think>)?(?P<thought>.*?)</think>\s*", re.DOTALL)  # the prompt may have opened it
OPENED = re.compile(r"\s*<think>\s*\Z")
EMPTY = re.compile(r"\s*<think>\s*</think>\s*")
LONGEST_EMPTY = 8  # tokens of an empty thought


def thought_of(message: Message) -> str:
    """What an assistant thought: in a field of its own, or before its content; without blanks around it."""
    apart = next((message[name] for name in REASONING if message.get(name)), None)
    inline = THOUGHT.match(message.get("content") or "")
    return (apart or (inline["thought"] if inline else "")).strip()


def without_reasoning(message: Message) -> Message:
    """An assistant's message without what it thought; another as it is."""
    if message["role"] != "assistant":
        return message
    kept = {key: value for key, value in message.items() if key not in REASONING}
    if isinstance(kept.get("content"), str):
        kept["content"] = THOUGHT.sub("", kept["content"])
    return kept


def empty_thought(tokenizer: Any, ids: list[int]) -> int:
    """How many tokens at the beginning of an answer are a thought without a word: nobody who thinks writes one."""
    found = 0
    for count in range(1, min(LONGEST_EMPTY, len(ids)) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=False)
        if EMPTY.fullmatch(text):
            found = count
        elif not text.lstrip().startswith("<") and text.strip():
            break
    return found


def hides_thoughts(tokenizer: Any) -> bool:
    """Whether text decoded without special tokens lacks the tags of thoughts."""
    return any(token.special and str(token) in TAGS for token in tokenizer.added_tokens_decoder.values())
