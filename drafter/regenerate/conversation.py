"""A prompt as a conversation: its user turns are answered one after the other, and each answer becomes a row."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drafter.answers import Answer
from drafter.verifier.chat import template_hash
from drafter.verifier.tokenizer import tokenizer_hash


@dataclass
class OpenConversation:
    """A conversation that is being answered: where it stands.

    Attributes:
        messages: what was said before the next answer.
        tools: what the chat template is told of tools.
        later: what users say still later, each up to where the next answer is due.
        rows: the answers so far, each with the turns before it.
    """

    source: str
    kind: str
    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    later: list[list[dict[str, Any]]] = field(default_factory=list)
    rows: list[Answer] = field(default_factory=list)

    @classmethod
    def of(cls, prompt: Mapping[str, Any]) -> "OpenConversation":
        """From `prompt` (one user turn), `messages` (ending where an answer is due) or `turns` (a list of such)."""
        single = [{"role": "user", "content": prompt.get("prompt")}]
        first, *later = prompt.get("turns") or [prompt.get("messages") or single]
        return cls(prompt["source"], prompt["kind"], first, prompt.get("tools"), later)

    def add(self, answer_ids: list[int], stop: str, text: str) -> bool:
        """Keep an answer; returns whether another turn follows. A cut answer ends the conversation: what a user says
        next would not follow from it."""
        single = [message.keys() for message in self.messages] == [{"role", "content"}]
        single = single and self.messages[0]["role"] == "user" and isinstance(self.messages[0]["content"], str)
        row = {
            "source": self.source,
            "kind": self.kind,
            "prompt": self.messages[0]["content"] if single else None,
            "messages": None if single else json.dumps(self.messages, ensure_ascii=False),
            "tools": json.dumps(self.tools, ensure_ascii=False) if self.tools else None,
            "answer_ids": answer_ids,
            "stop": stop,
        }
        self.rows.append(row)
        if stop != "stop" or not self.later:
            return False
        self.messages = [*self.messages, {"role": "assistant", "content": text}, *self.later.pop(0)]
        return True


def origin_of(tokenizer: Any) -> dict[str, str | None]:
    """What decides the tokens of a conversation: the vocabulary, and the chat template as it is cut."""
    return {"tokenizer": tokenizer_hash(tokenizer), "template": template_hash(tokenizer)}


def answer_seed(seed: int, index: int, turn: int, bits: int) -> int:
    """The seed of one answer, of so many bits: a function of the run's, the prompt's index and the turn alone."""
    digest = hashlib.sha256(f"{seed} {index} {turn}".encode()).digest()
    return int.from_bytes(digest) >> (8 * len(digest) - bits)
