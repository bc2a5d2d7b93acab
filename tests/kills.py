"""A process that is killed (-9) at a step of its choice on the disk: every write, rename, sync, removal it makes."""

import builtins
import io
import os
import signal
from collections.abc import Callable, Iterator
from itertools import count

import pyarrow.parquet

STEPS = ("replace", "rename", "fsync", "unlink", "remove", "rmdir", "mkdir", "truncate", "link")


def every_kill(work: Callable[[int], None], most: int = 400) -> Iterator[int]:
    """Run `work(n)` in a process of its own, killed at its `n`th step, for n = 1, 2, ... until it lives to its end.

    Yields:
        n, of each run that was killed.
    """
    for number in count(1):
        if not _killed(work, number):
            return
        assert number < most, "it never ends"
        yield number


def _killed(work: Callable[[int], None], at: int) -> bool:
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            _watch(at)
            work(at)
            ended = 0
        finally:
            os._exit(ended)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"step {at}: ended with {ended}"
    return ended != 0


def _watch(at: int) -> None:
    """From here on count this process's steps, and kill it at step `at`; a write is torn in two by it."""
    steps = count(1)

    def due() -> bool:
        return next(steps) == at

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(real):
        def step(*arguments, **named):
            if due():
                die()
            return real(*arguments, **named)

        return step

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    pyarrow.parquet.write_table = counted(pyarrow.parquet.write_table)
    pyarrow.parquet.ParquetWriter.write_table = counted(pyarrow.parquet.ParquetWriter.write_table)
    opened = io.open

    def watched(file, mode="r", *arguments, **named):
        found = opened(file, mode, *arguments, **named)
        return Torn(found, due, die) if set(mode) & set("wax+") else found

    io.open = builtins.open = watched


class Torn:
    """A file whose last write is cut in the middle."""

    def __init__(self, file, due, die):
        self.file, self.due, self.die = file, due, die

    def write(self, data):
        if self.due():
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.die()
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
