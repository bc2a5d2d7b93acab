"""Records of data sets, in the shapes that people publish them in → conversations in one shape.

`messages` (OpenAI: role, content), `conversations` (ShareGPT: from, value) or `prompt` (a text, or messages), with
`system` and `tools` beside them; lists and objects may be JSON text, as columns of one type keep them.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from drafter.sources.base import BadRow, Conversation, Message

FIELDS = ("messages", "conversations", "prompt")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
REASONING = ("reasoning_content", "reasoning", "thinking")
NAMES = ("name", "tool_call_id")
LISTED = re.compile(r"\s*\[\s*[{\"]")  # begins as a list of messages does


@dataclass(frozen=True)
class Fields:
    """Names of a record's fields.

    Args:
        conversation: holds the messages or the prompt; None for the first of FIELDS that a record has.
        answer: holds the author's answer to a prompt.
        document: names the document that the record comes from.
    """

    conversation: str | None = None
    answer: str | None = None
    document: str | None = None

    def names(self) -> list[str]:
        """All that may be read, so that other columns need not be."""
        conversation = FIELDS if self.conversation is None else (self.conversation,)
        return [*conversation, "system", "tools", *filter(None, (self.answer, self.document))]


def conversation_of(record: Any, fields: Fields, name: str, number: int) -> Conversation:
    """A record as a conversation of kind `name`, which is its own document unless a field names one.

    Raises:
        BadRow: there is no conversation in it.
    """
    if not isinstance(record, dict):
        raise BadRow("no JSON object", type(record).__name__)
    wanted = FIELDS if fields.conversation is None else (fields.conversation,)
    field = next((field for field in wanted if record.get(field) is not None), None)
    if field is None:
        raise BadRow("no prompt", f"none of the fields {', '.join(wanted)}; name it by `field`")
    messages = messages_of(record[field] if field == "prompt" else _unpacked(record[field], strictly=field in FIELDS))
    if record.get("system") and messages[0]["role"] != "system":
        messages.insert(0, message_of({"role": "system", "content": record["system"]}))
    if fields.answer is not None and record.get(fields.answer) is not None:
        messages.append(message_of({"role": "assistant", "content": record[fields.answer]}))
    if not any(message["role"] == "user" for message in messages):
        raise BadRow("no prompt", "no user's turn")
    document = record.get(fields.document) if fields.document else None
    named = document is not None and document != ""
    found: Conversation = {"source": str(document if named else f"{name}:{number}"), "kind": name, "messages": messages}
    tools = _parsed(record.get("tools") or [], "tools")
    if not isinstance(tools, list):
        raise BadRow("broken tool call", "tools are no list")
    if tools:
        found["tools"] = [_parsed(tool, "a tool") for tool in tools]
    return _checked(found)


def messages_of(said: Any) -> list[Message]:
    """A prompt or a list of messages, in one shape.

    Raises:
        BadRow: a message lacks its role or content, or there is none.
    """
    if isinstance(said, str):
        said = [{"role": "user", "content": said}]
    if not isinstance(said, list) or not said:
        raise BadRow("no messages", f"{type(said).__name__} in their place" if said else "")
    return [message_of(_unpacked(message) if isinstance(message, str) else message) for message in said]


def message_of(said: Any) -> Message:
    """One message: OpenAI's keys, or ShareGPT's; `weight` is kept where it says that an answer is not to be learnt.

    Raises:
        BadRow: no role, an unknown one, no content, or a weight that is neither 0 nor 1.
    """
    if not isinstance(said, dict):
        raise BadRow("no messages", f"a message is a {type(said).__name__}")
    named = said.get("role") or said.get("from")
    if not named:
        raise BadRow("missing role")
    role = ROLES.get(str(named).lower())
    if role is None:
        raise BadRow("unknown role", str(named))
    content = _text(said.get("content") if "content" in said else said.get("value"))
    kept: dict[str, Any] = {name: str(said[name]) for name in NAMES if said.get(name)}
    for name in REASONING:
        if not isinstance(said.get(name), bool) and (thought := _text(said.get(name))):  # true: a switch, no thought
            kept[name] = thought
    weight = said.get("weight")
    if weight not in (None, 0, 1):
        raise BadRow("unknown weight", f"{weight!r}; an answer is learnt (1) or not (0)")
    if role == "assistant" and weight == 0:
        kept["weight"] = 0
    calls = _parsed(said.get("tool_calls") or None, "tool_calls")
    if str(named).lower() == "function_call":
        calls, content = _parsed(content, "tool_calls"), ""
    if calls:
        kept["tool_calls"] = [_call(call) for call in (calls if isinstance(calls, list) else [calls])]
    elif not content.strip() and role != "tool":  # a tool may find nothing
        raise BadRow("empty content", role)
    return {"role": role, "content": content, **kept}


def without_nulls(value: Any) -> Any:
    """Drop the keys that a column's type adds to every object in it."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _text(content: Any) -> str:
    """A message's text, of parts put together."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise BadRow("content is no text", "a part of it")
        content = "".join(map(str, parts))
    if content is None:
        return ""
    if not isinstance(content, str):
        raise BadRow("content is no text", type(content).__name__)
    return content


def _unpacked(said: Any, strictly: bool = False) -> Any:
    """Messages, or one, that JSON text holds; any other text is what a user says.

    Args:
        strictly: what begins as a list of messages has to be one.
    """
    if not isinstance(said, str):
        return said
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        if strictly and LISTED.match(said):
            raise BadRow("no messages", "text that begins as JSON, and is none") from None
        return said
    each = found if isinstance(found, list) else [found]
    shaped = each and all(isinstance(one, dict) and (one.get("role") or one.get("from")) for one in each)
    return found if shaped or (strictly and isinstance(found, list)) else said


def _checked(found: Conversation) -> Conversation:
    """Refuse what can't be written as text: half characters anywhere, values that JSON does not know."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRow("invalid UTF-8", "half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("content is no text", str(error)) from None
    return found


def _call(call: Any) -> dict[str, Any]:
    """A tool call as templates read it: arguments as an object, not as its text."""
    call = _parsed(call, "a call")
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not function.get("name"):
        raise BadRow("broken tool call", "names no function")
    arguments = _parsed(function.get("arguments") or {}, "arguments")
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call.get("id") else made


def _parsed(said: Any, what: str) -> Any:
    if not isinstance(said, str):
        return said
    try:
        return json.loads(said)
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError, too
        raise BadRow("broken tool call", f"{what} is no JSON") from None
