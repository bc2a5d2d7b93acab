"""Processes that this one starts: looked at, not waited for, and ended with it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POLL = 0.2  # seconds between looks: a wait would lose a signal that comes just before it blocks


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, and Ctrl-C even where a shell put us in the background.

    A shell lets those ignore SIGINT, and what they start with them; what has a handler here is as by default there.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
