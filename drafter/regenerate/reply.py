"""What a server's reply says, in the verifier's tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from drafter.engine.client import Failure
from drafter.verifier.chat import spoken


@dataclass(frozen=True)
class Reply:
    """An answer.

    Args:
        ids: its tokens, the one that ends the turn included where it ended.
        stop: `stop` or `length`.
        prompt_tokens: how many tokens the server read; None where it does not say.
        prompt_ids: those tokens, from a server that gives them.
        retokenised: whether the text has another number of tokens here than it was made of there.
    """

    ids: list[int]
    stop: str
    text: str
    prompt_tokens: int | None
    retokenised: bool
    prompt_ids: list[int] | None = None

    def differs(self, asked: Sequence[int]) -> str | None:
        """How the server read another prompt than `asked`, by ids where it gives them; None: it did not."""
        if self.prompt_ids is not None:
            pairs = zip_longest(self.prompt_ids, asked)
            at = next((at for at, (there, here) in enumerate(pairs) if there != here), None)
            return (
                None if at is None else f"reads token {at} of a prompt otherwise than the verifier's chat template here"
            )
        if self.prompt_tokens in (None, len(asked)):
            return None
        return f"reads a prompt as {self.prompt_tokens} tokens, the verifier's chat template here as {len(asked)}"


def read_reply(reply: dict[str, Any], tokenizer: Any, end: int, token_ids: bool) -> Reply:
    """Take an answer out of a chat completion.

    Args:
        end: id of the token that closes an answer in the chat template.
        token_ids: take the ids that the server gives, rather than those of the text.
    Raises:
        Failure: the reply holds no answer as the verifier wrote it.
    """
    try:
        choice = reply["choices"][0]
        message, finish = choice["message"], choice["finish_reason"]
        text, given, usage = message.get("content"), choice.get("token_ids"), reply.get("usage") or {}
        thought = message.get("reasoning_content") or message.get("reasoning")
        read = reply.get("prompt_token_ids")
        prompt_tokens, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Failure("malformed reply", f"no chat completion ({error!r})", transient=True) from None
    text = "" if text is None else text
    for name, value, good in (
        ("content", text, isinstance(text, str)),
        ("token_ids", given, given is None or _are_ids(given)),
        ("prompt_token_ids", read, read is None or _are_ids(read)),
        ("prompt_tokens", prompt_tokens, isinstance(prompt_tokens, int | None)),
        ("completion_tokens", made, isinstance(made, int | None)),
    ):
        if not good:
            raise Failure("malformed reply", f"{name}={str(value)[:100]!r}", transient=True)
    if finish not in ("stop", "length"):
        raise Failure(f"ended by {finish}", "serve the model without a parser of tool calls, and without filters")
    if token_ids:
        if not given:
            raise Failure("no token ids", "the server does not return them; set data.server.token_ids=false")
        ids = given
        text = spoken(tokenizer, ids)
    elif thought:
        remedy = "serve the model without a reasoning parser, or set data.server.token_ids=true"
        raise Failure("reasoning apart", remedy)
    else:
        try:
            ids = tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeError, TypeError) as error:  # half a surrogate pair
            raise Failure("malformed reply", f"no text ({error})") from None
    ended = finish == "stop"
    if ended and not (token_ids and ids[-1] in tokenizer.added_tokens_decoder):
        ids = [*ids, end]
    counted = made is None or token_ids or len(ids) - ended <= made <= len(ids)  # with or without the end of the turn
    return Reply(ids, finish, text, prompt_tokens, not counted, read)


def _are_ids(value: Any) -> bool:
    """Whether it is a list of what files of answers can hold as ids."""
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**31 for one in value)
