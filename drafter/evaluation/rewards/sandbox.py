"""Programs that a model wrote, run where they can do no harm: each in a confined process, stopped after a while."""

import json
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drafter.evaluation.rewards import confine

SCRIPT = Path(confine.__file__)
LONGEST_ANSWER = 4096  # bytes that are read of what a process tells
LONGEST_REASON = 400  # characters


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Args:
        seconds: of wall time.
        megabytes: of address space; Python itself takes about 20.
        together: programs at a time.
    """

    seconds: float = 4.0
    megabytes: int = 512
    together: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"sandbox.seconds={self.seconds}: must be > 0")
        if self.megabytes < 64:
            raise ValueError(f"sandbox.megabytes={self.megabytes}: must be >= 64, Python itself takes part of it")
        if self.together < 1:
            raise ValueError(f"sandbox.together={self.together}: must be >= 1")


@dataclass(frozen=True)
class Execution:
    """Whether a program ran to its end, and if not, why, in a few words."""

    passed: bool
    reason: str = ""


def run(program: str, limits: Limits | None = None) -> Execution:
    """Run a program to its end, in a process that can neither start others nor change files nor reach a network.

    It passes if its last line was reached: one that exits before does not. It may read files, and the standard library
    is there, other packages are not.
    """
    limits = limits or Limits()
    word = secrets.token_hex(16)
    order = {"program": program, "word": word, "seconds": int(limits.seconds) + 1, "megabytes": limits.megabytes}
    with tempfile.TemporaryDirectory(prefix="sandbox-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=scratch,
            env={},
            start_new_session=True,
        )
        try:
            return _hear(process, json.dumps(order).encode(), word, limits.seconds)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]


def run_all(programs: Sequence[str], limits: Limits | None = None) -> list[Execution]:
    """Run programs side by side; in order."""
    limits = limits or Limits()
    with ThreadPoolExecutor(limits.together) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))


@cache
def require_sandbox() -> None:
    """Raise a ValueError unless programs can be confined on this machine; tried once."""
    if sys.platform != "linux" or platform.machine() not in confine.MACHINES:
        raise ValueError(
            f"reward: programs are confined on Linux on {' or '.join(confine.MACHINES)}, this is {sys.platform} on "
            f"{platform.machine()}; choose a reward that runs none"
        )
    fine, forks = run_all(["pass", "import os\nos.fork()"])
    if not fine.passed or forks.passed:
        raise ValueError(f"reward: programs can't be confined here ({fine.reason}); choose a reward that runs none")


def _hear(process: subprocess.Popen[bytes], order: bytes, word: str, seconds: float) -> Execution:
    """Hand over the order, and wait for the end or for what the process tells, a few bytes."""
    told: list[bytes] = []
    pipes: list[Any] = [process.stdin, process.stdout]

    def listen() -> None:
        try:
            pipes[0].write(order)
            pipes[0].close()
        except BrokenPipeError:
            return
        told.append(pipes[1].read(LONGEST_ANSWER))

    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(listen)
        try:
            heard.result(seconds)
        except TimeoutError:
            return Execution(False, f"took longer than {seconds:g} seconds")
        finally:
            process.kill()  # before the pool waits for the listener
    process.wait()
    answer = b"".join(told).decode(errors="replace")
    if answer == word:
        return Execution(True)
    if process.returncode == -signal.SIGSYS:
        return Execution(False, "did what is forbidden: a process, a socket, a signal or a changed file")
    return Execution(False, answer[:LONGEST_REASON] or f"ended without a word ({process.returncode})")
