"""Conversations → token ids in a tokenizer's chat template, and exactly which of them an assistant writes.

A message is a dict with `role` (system, user, assistant, tool), `content`, and where it has them `reasoning_content`,
`tool_calls`, `name`, `tool_call_id`. `keep_reasoning=False` takes reasoning out of what assistants wrote and tells the
template so (`enable_thinking`, which Qwen3's reads and others pass over).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from drafter.sources.base import Message
from drafter.verifier.thoughts import EMPTY, OPENED, TAGS, thought_of, without_reasoning

Span = tuple[int, int]  # half-open, in tokens

MARK = "\u241f"  # stands for somebody's words while the template is cut open
CUT = "It's 1234.5 \n\n  caf\u00e9\t\u65e5\u672c \U0001f469\u200d\U0001f680"  # what tokenizers cut in different ways
TAG = re.compile(r"\{%-?\s*generation\b")


class ControlToken(ValueError):
    """A message holds the text of a token with which the template structures conversations."""


def prompt_ids(
    tokenizer: Any, messages: Sequence[Message], *, tools: list[Any] | None = None, keep_reasoning: bool = True
) -> list[int]:
    """Ids of a conversation up to where the next answer begins.

    Raises:
        ValueError: there is no chat template, or it refuses the messages.
        ControlToken: what somebody else than the assistant says would be read as the template's own.
    """
    template = _Template(tokenizer, tools, keep_reasoning)
    template.refuse_control(message for message in messages if message["role"] != "assistant")
    return template.encode(template.text(template.shown(messages), answer_next=True))


def render(
    tokenizer: Any, messages: Sequence[Message], *, keep_reasoning: bool, tools: list[Any] | None = None
) -> tuple[list[int], list[Span]]:
    """Ids of a whole conversation, and what its assistants write: content and end-of-turn token, not the header.

    By the template's generation tags where it has them; else, or where these do not fall between tokens, by rendering
    the turns before each answer, then with it: each must be how the next begins, in text and in tokens. A thought
    without a word, which some templates put before an answer, belongs to no span: who thinks writes none.

    Raises:
        ValueError: no template, one that refuses the messages, or no exact span; names the turn and the remedy.
        ControlToken: as `prompt_ids`, of any message.
    """
    template = _Template(tokenizer, tools, keep_reasoning)
    template.refuse_control(messages)
    messages = template.shown(messages)
    text = template.text(messages)
    ids = template.encode(text)
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    marks = [(_worded(text, start), end) for start, end in template.tagged(messages, text)]
    spans = [template.in_tokens(text, ids, *mark) for mark in marks]
    if marks and None not in spans:
        if len(marks) == len(turns):
            for turn, (start, end) in zip(turns, marks, strict=True):
                _check_reasoning(turn, messages[turn], text[start:end])
        return ids, [template.trim(ids, *_with_end(ids, span, tokenizer.eos_token_id)) for span in spans if span]
    return ids, [template.turn(messages, turn, text, ids, thoughtless=True) for turn in turns]


def answer_ids(
    tokenizer: Any, messages: Sequence[Message], *, keep_reasoning: bool, tools: list[Any] | None = None
) -> tuple[list[int], list[int]]:
    """`prompt_ids` of the turns before the last, and the ids that the last turn, an assistant's, adds to them.

    Only the last answer has to be exact: a template may rewrite earlier ones (Qwen3's drops their reasoning). Where the
    prompt ends in an open thought (DeepSeek-R1's), the answer goes on with what was thought.

    Raises:
        ValueError, ControlToken: as `render`.
    """
    template = _Template(tokenizer, tools, keep_reasoning)
    template.refuse_control(messages)
    messages = template.shown(messages)
    text = template.with_thought(messages)
    ids = template.encode(text)
    start, end = template.turn(messages, len(messages) - 1, text, ids)
    return ids[:start], ids[start:end]


def user_turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Cut a conversation at its answers: what is said before each, so that a verifier can give its own.

    An answer is an assistant's turn without tool calls; calls and their results stay where they are, since a verifier
    asked anew can't have a tool run. What follows the last answer is a turn of its own.
    """
    turns: list[list[Message]] = []
    turn: list[Message] = []
    for message in [*messages, {"role": "assistant"}]:
        if message["role"] != "assistant" or message.get("tool_calls"):
            turn.append(message)
            continue
        while turn and turn[-1]["role"] == "assistant":  # a call without its result
            turn.pop()
        if any(each["role"] in ("user", "tool") for each in turn):  # a system's word may come behind them
            turns.append(turn)
            turn = []
    return turns


def spoken(tokenizer: Any, ids: Sequence[int]) -> str:
    """An answer as the turns behind it quote it: all that was written, but the token that ends it.

    Special tokens stay: without them a thought between special `<think>` tokens would run into the answer.
    """
    ended = len(ids) > 0 and ids[-1] in _special(tokenizer)
    return tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)


def turn_end(tokenizer: Any) -> int:
    """Id of the token with which the chat template closes an answer; it need not be the one that ends a text.

    Raises:
        ValueError: there is no chat template, or no special token behind an answer in it.
    """
    template = _Template(tokenizer)
    text = template.text([{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}])
    behind = template.encode(text.rpartition(MARK)[2]) if MARK in text else []
    end = next((token for token in behind if token in tokenizer.added_tokens_decoder), None)
    if end is None:
        raise ValueError("verifier: its chat template closes an answer with no special token; choose a chat model")
    return end


def template_hash(tokenizer: Any) -> str | None:
    """A short hash of what makes tokens of a conversation: the chat template, and how the tokenizer cuts a text."""
    if tokenizer is None or not tokenizer.chat_template:
        return None
    known = [tokenizer.chat_template, tokenizer.encode(CUT, add_special_tokens=False)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def user_header(tokenizer: Any) -> list[int]:
    """Ids of the chat template up to where the user's words begin.

    Raises:
        ValueError: there is no template, or it can't be cut open there.
    """
    template = _Template(tokenizer)
    text = template.text([{"role": "user", "content": MARK}])
    if text.count(MARK) != 1:
        raise ValueError("verifier: its chat template does not write the user's turn as it is; can't prompt itself")
    return template.encode(text.split(MARK)[0])


@dataclass
class _Template:
    """A tokenizer's chat template, with what every rendering of a conversation gets."""

    tokenizer: Any
    tools: list[Any] | None = None
    keep_reasoning: bool = True

    def __post_init__(self) -> None:
        if self.tokenizer is None or not self.tokenizer.chat_template:
            raise ValueError("verifier: its tokenizer has no chat template; choose a chat model")
        self.settings = {} if self.keep_reasoning else {"enable_thinking": False}

    def shown(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template gets them: without reasoning where that is not wanted."""
        return list(messages) if self.keep_reasoning else [without_reasoning(message) for message in messages]

    def text(self, messages: Sequence[Message], answer_next: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=self.tools, add_generation_prompt=answer_next, tokenize=False, **self.settings
            )
        except (TemplateError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"the chat template refuses the conversation ({reason}); mend or remove it") from None

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def tagged(self, messages: Sequence[Message], text: str) -> list[Span]:
        """Characters between the template's generation tags; none where it has no tags."""
        source = self.tokenizer.get_chat_template(tools=self.tools)
        if not TAG.search(source):
            return []
        texts, marks = render_jinja_template(
            conversations=[list(messages)],
            tools=self.tools,
            chat_template=source,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
            **self.settings,
        )
        return [(start, end) for start, end in marks[0] if end > start] if texts == [text] else []

    def refuse_control(self, messages: Iterable[Message]) -> None:
        """Raise a ControlToken where a message holds one; `<think>`, which answers are made of, is none."""
        source = self.tokenizer.get_chat_template(tools=self.tools)
        ends = {self.tokenizer.bos_token, self.tokenizer.eos_token}
        control = [token for token in _special(self.tokenizer).values() if token in ends or token in source]
        control = sorted(set(control) - set(TAGS))
        for message in (*messages, {"role": "tools", "tool_calls": self.tools}):
            said = [text for text in message.values() if isinstance(text, str)]
            said.append(json.dumps(message.get("tool_calls") or "", ensure_ascii=False))
            for token in control:
                if any(token in text for text in said):
                    raise ControlToken(
                        f"a message of {message['role']!r} holds {token!r}, which the verifier would read as its chat "
                        "template's own; remove it"
                    )

    def with_thought(self, messages: Sequence[Message]) -> str:
        """The text of a conversation, with what its last turn thought where the template drops that, and the generation
        prompt opens a thought."""
        text, before = self.text(messages), self.text(messages[:-1], answer_next=True) if messages[1:] else ""
        header, thought = OPENED.sub("", before), thought_of(messages[-1])
        if header == before:
            return text
        if not thought:
            raise ValueError(
                f"messages[{len(messages) - 1}]: the chat template opens a thought, and this answer has none; give it "
                "one (reasoning_content) and set data.keep_reasoning=true, or leave it out"
            )
        if text.startswith(before) or not text.startswith(header):
            return text
        bare = self.text([*messages[:-1], without_reasoning(messages[-1])])
        return f"{before}{thought}\n</think>\n\n{bare[len(header) :].lstrip()}"

    def turn(
        self, messages: Sequence[Message], turn: int, text: str, ids: list[int], thoughtless: bool = False
    ) -> Span:
        """Tokens of the answer at `turn`, by rendering what is before it and then it too.

        Args:
            thoughtless: without the empty thought that a template may put before it.
        """
        name = f"messages[{turn}]"
        if turn < 1 or messages[turn]["role"] != "assistant":
            raise ValueError(f"{name}: is no answer to anything; begin with a user's turn, end with an assistant's")
        before = self.text(messages[:turn], answer_next=True)
        behind = text if turn == len(messages) - 1 else self.text(messages[: turn + 1])
        if not behind.startswith(before) or not text.startswith(behind):
            raise ValueError(
                f"{name}: the chat template writes it otherwise once turns follow, or without a generation prompt "
                "before it; make a row of each answer, with the turns before it as its prompt"
            )
        _check_reasoning(turn, messages[turn], behind[len(before) :])
        start = _worded(behind, len(before)) if thoughtless else len(before)
        span = self.in_tokens(text, ids, start, len(behind))
        if span is None:
            raise ValueError(f"{name}: a token spans where it begins or ends; strip the blanks around its content")
        return self.trim(ids, *span)

    def in_tokens(self, text: str, ids: list[int], start: int, end: int) -> Span | None:
        """A span of characters in tokens; None where it does not begin and end between two tokens."""
        before, behind = self.encode(text[:start]), ids if end == len(text) else self.encode(text[:end])
        exact = ids[: len(before)] == before and ids[: len(behind)] == behind
        return (len(before), len(behind)) if exact else None

    def trim(self, ids: list[int], start: int, end: int) -> Span:
        """End a span at its end-of-turn token: nobody writes the blanks that a template puts behind it."""
        added = self.tokenizer.added_tokens_decoder
        last = next((at for at in range(end - 1, start - 1, -1) if ids[at] in added), None)
        if last is not None and not self.tokenizer.decode(ids[last + 1 : end]).strip():
            return start, last + 1
        return start, end


def _with_end(ids: list[int], span: Span, end_id: int | None) -> Span:
    """A tagged span with the end-of-turn token, where the tags end before it."""
    start, end = span
    return (start, end + 1) if end < len(ids) and ids[end] == end_id and ids[end - 1] != end_id else span


def _worded(text: str, start: int) -> int:
    """Where an answer begins, behind a thought without a word."""
    empty = EMPTY.match(text, start)
    return empty.end() if empty else start


def _special(tokenizer: Any) -> dict[int, str]:
    """Special tokens, by id."""
    return {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def _check_reasoning(turn: int, message: Message, written: str) -> None:
    if thought_of(message) not in written:
        raise ValueError(
            f"messages[{turn}]: the chat template does not write its reasoning here; drop reasoning, or make a row of "
            "each answer, with the turns before it as its prompt"
        )
