"""A server as a process of this one: started, waited for until it answers, and ended with it."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from drafter.machine.children import POLL, ended_by_signals

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost")
GRACE = 30.0  # seconds from asking it to end to ending it


@contextmanager
def running(words: Sequence[str], host: str, port: int, output: Path, patience: float) -> Iterator[subprocess.Popen]:
    """A server that answers `/health` inside; behind it, it and what it started have ended.

    Args:
        words: of its command; no shell reads them.
        host, port: where it listens; on this machine alone.
        output: file that gets what it prints.
        patience: seconds until it must answer.
    Raises:
        ValueError: the port is taken, there is no such program, or it ends or is silent before it answers.
    """
    if host not in LOOPBACK:
        raise ValueError(f"host={host!r}: --start serves this machine alone; leave it out, or run the printed command")
    if shutil.which(words[0]) is None:
        raise ValueError(f"python={words[0]!r}: no such program; name the Python that has vLLM")
    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            raise ValueError(f"port={port}: something listens there already; end it, or choose another") from None
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file, ended_by_signals():
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait(process, host, port, output, patience)
            yield process
        finally:
            _end(process)


def _wait(process: subprocess.Popen, host: str, port: int, output: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _healthy(host, port):
        if process.poll() is not None:
            raise ValueError(
                f"engine: ended with {process.returncode} before it answered ({_last(output)}); see {output}"
            )
        if time.monotonic() > deadline:
            raise ValueError(f"engine: has not answered for {patience:g} s; see {output}, or raise --patience")
        time.sleep(POLL)


def _healthy(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen) -> None:
    """End it and what it started: it is the first of its own session."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            log.warning("the server has not ended within %g s; it is killed", GRACE)
    process.wait()


def _last(output: Path) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "without a word"
