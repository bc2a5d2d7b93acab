"""One answer as a reader sees it, accepted tokens coloured, and as a file keeps it."""

from typing import Any

from drafter.decode import Generation
from drafter.decode.text import Detokenizer

ACCEPTED, PLAIN = "\x1b[32m", "\x1b[0m"


def kept(answer: Generation) -> list[bool]:
    """For each token of an answer, whether it was a draft that was kept."""
    found = [False]  # the prefill's token
    for emitted, accepted in zip(answer.emitted, answer.accepted, strict=True):
        found += [True] * accepted + [False] * (emitted - accepted)
    return found[: len(answer.token_ids)]


def coloured(answer: Generation, tokenizer: Any) -> str:
    """The text of an answer, green where a kept draft completed it."""
    detokenizer, parts, length = Detokenizer(tokenizer), [], 0
    for token, draft in zip(answer.token_ids, kept(answer), strict=True):
        parts.append((draft, detokenizer.push(token)))
    parts.append((False, detokenizer.flush()))
    text = ""
    for draft, part in parts:
        part = part[: max(0, len(answer.text) - length)]  # a stop string is no part of the text
        length += len(part)
        text += f"{ACCEPTED}{part}{PLAIN}" if draft and part else part
    return text


def figures(answer: Generation) -> dict[str, Any]:
    """An answer as `--json` has it."""
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "stop": answer.stop,
        "emitted": answer.emitted,
        "accepted": answer.accepted,
        "tokens_per_cycle": answer.tokens_per_cycle if answer.emitted else None,
        "verifier_calls": answer.verifier_calls,
        "seconds": answer.seconds,
        "tokens_per_second": len(answer.token_ids) / answer.seconds,
    }
