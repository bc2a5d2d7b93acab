"""An answer as text while it grows: whole characters, stop strings wherever tokens cut them."""

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"  # what a tokenizer writes for bytes that are no character, or not yet
BYTES = 4  # of a character, at most
WAITING = 32  # tokens without an end of a character (bytes that are none, special tokens) before no more is waited for


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """The stop strings; one may be given by itself.

    Raises:
        ValueError: one is empty, or no string.
    """
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(string, str) and string for string in strings):
        raise ValueError(f"stop={list(strings)}: each must be a string of at least one character; remove the others")
    return strings


class Detokenizer:
    """Text of tokens that come one by one; special tokens have none.

    Tokens are decoded behind those of the last whole piece, never the answer from its start, so that a token costs the
    same wherever it comes. What is given out joins to the text of all tokens at once; where bytes are no character, the
    count of replacement characters may be another (some decoders judge a run of byte tokens as one).
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.first = self.whole = 0  # decoding starts at token `first`; a character ends with token `whole` - 1
        self.given = 0  # characters of the text from `first` on that were given out

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        self.ids.append(token)
        old = self._give_up(len(self.ids) - BYTES) if len(self.ids) - self.whole > WAITING else ""
        text = self._text(self.first)
        settled = text.rstrip(BROKEN)  # later tokens can change nothing before bytes that wait for others
        new, self.given = settled[self.given :], max(self.given, len(settled))
        if new and settled == text:
            self.first, self.whole = self.whole, len(self.ids)
            self.given = len(self._text(self.first))
        return old + new

    def _give_up(self, end: int) -> str:
        """The characters up to token `end`, broken as they may be: nothing that follows is waited for."""
        text = self._text(self.first, end)
        new, ahead = text[self.given :], max(0, self.given - len(text))
        self.first, self.whole = self.whole, end
        self.given = len(self._text(self.first, end)) + ahead
        return new

    def flush(self) -> str:
        """What is left when no token follows, bytes without a character included."""
        rest = self._text(self.first)[self.given :]
        self.given += len(rest)
        return rest

    def _text(self, first: int, end: int | None = None) -> str:
        return self.tokenizer.decode(self.ids[first:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Transcript:
    """The text of an answer up to a stop string, and how much of it may be shown.

    Attributes:
        text: settled so far; ends before the stop string once one is complete.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()):
        self.detokenizer, self.stop = Detokenizer(tokenizer), stop
        self.longest = max(map(len, stop), default=0)
        self.text = ""
        self.closed = False
        self.shown = 0

    def push(self, token: int) -> bool:
        """Add a token; whether a stop string is complete now."""
        return self._add(self.detokenizer.push(token))

    def close(self) -> None:
        """No token follows: nothing has to be held back any longer."""
        if not self.closed:
            self._add(self.detokenizer.flush())
            self.closed = True

    def news(self) -> str:
        """Text to show that was not shown yet: not what may be the beginning of a stop string."""
        end = len(self.text) if self.closed else len(self.text) - self._held()
        new, self.shown = self.text[self.shown : end], max(self.shown, end)
        return new

    def _add(self, new: str) -> bool:
        before = len(self.text)
        self.text += new
        found = [self.text.find(string, max(0, before - len(string) + 1)) for string in self.stop]
        if any(at >= 0 for at in found):
            self.text = self.text[: min(at for at in found if at >= 0)]
            self.closed = True
        return self.closed

    def _held(self) -> int:
        """Characters at the end that may begin a stop string."""
        for count in range(min(self.longest - 1, len(self.text) - self.shown), 0, -1):
            if any(string.startswith(self.text[-count:]) for string in self.stop):
                return count
        return 0
