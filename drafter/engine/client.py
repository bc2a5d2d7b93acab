"""One request to an OpenAI-compatible server at a time from each thread: time limits, retries, polite waiting.

On the standard library's client, since two things are needed that requests, urllib3 and httpx do not have: a limit on a
whole reply (theirs are on a single read, so a server that drips is never late), and another thread's end to a request
that still waits for its reply.
"""

import json
import logging
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import count
from socket import SHUT_RDWR
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

log = logging.getLogger(__name__)
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries: doubled from try to try
LONGEST_AWAITED = 5.0  # of a server that is waited for
PATIENCE = 600.0  # longest wait that a server may ask for
LARGEST = 64 * 2**20  # bytes of a reply
AGAIN = (408, 425, 429)
NEVER = (401, 403, 404)

Result = TypeVar("Result")


class Address(Protocol):
    """What a recipe says of a server."""

    url: str | None
    timeout: float
    retries: int
    api_key_env: str | None


class Failure(Exception):
    """One request has no answer; others may have.

    Args:
        reason: one of few, to be counted by.
        transient: whether another try could have gone well.
        after: seconds that the server asked to wait.
    """

    def __init__(self, reason: str, detail: str, transient: bool = False, after: float | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.transient, self.after = reason, detail, transient, after


class Gone(ValueError):
    """A server has not answered for as long as it was to be waited for; all may go on once it does."""


class Aborted(Exception):
    """The run ends; nothing is to be said about this request."""


class Client:
    """Posts JSON to `<url>/<path>`. Redirects are not followed, so that the key goes nowhere else.

    Args:
        url: base of the server; without a path, `/v1` is meant.
        timeout: seconds for one try, from the connection to the last byte.
        retries: further tries.
        key: sent as a bearer token; in no message.
        first_wait: seconds before the second try, at most; doubled from try to try.
        section: of the recipe, for errors.
        patience: seconds from the first try on in which there are further ones, however many.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: int,
        key: str | None = None,
        first_wait: float = FIRST_WAIT,
        section: str = "data.server",
        patience: float = 0.0,
    ):
        parts = urlsplit(url)
        self.section, self.patience = section, patience
        self._waiting = False  # whether it was said that the server does not answer
        self.url, self.timeout, self.retries, self.first_wait = url, timeout, retries, first_wait
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._base = parts.hostname or "", parts.port, parts.path.rstrip("/") or "/v1"
        self._key = key
        self._stop = threading.Event()
        self._open: set[HTTPConnection] = set()
        self._lock = threading.Lock()
        self._not_before = 0.0

    @classmethod
    def of(
        cls,
        settings: Address,
        first_wait: float = FIRST_WAIT,
        section: str = "data.server",
        patience: float = 0.0,
    ) -> "Client":
        """As a recipe says.

        Raises:
            ValueError: the environment lacks the key.
        """
        name = settings.api_key_env
        key = None if name is None else os.environ.get(name)
        if name is not None and not key:
            raise ValueError(f"{section}.api_key_env={name!r}: no such variable; export the key")
        if key is not None and not re.fullmatch(r"[!-~]+", key):  # the standard library would tell it in its error
            raise ValueError(f"{section}.api_key_env={name!r}: holds blanks or line breaks; export the key alone")
        return cls(str(settings.url), settings.timeout, settings.retries, key, first_wait, section, patience)

    @property
    def stopped(self) -> bool:
        """Whether `abort` was called."""
        return self._stop.is_set()

    def post(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], Result]) -> Result:
        """What `read` makes of the reply, a JSON object; its Failures are tried again as those of the connection are.

        Raises:
            Failure: the request was refused, or every try failed.
            ValueError: no request can succeed: the key, the address or the model is wrong.
        """
        content, deadline = json.dumps(body).encode(), time.monotonic() + self.patience
        for attempt in count():
            self._wait()
            try:
                result = read(self._once(path, content))
                self._waiting = False
                return result
            except Failure as failure:
                if self._stop.is_set():
                    raise Aborted from None
                if not failure.transient or (attempt >= self.retries and time.monotonic() >= deadline):
                    raise
                if self.patience and not self._waiting:
                    self._waiting = True
                    log.warning("%s does not answer (%s); waiting up to %g s", self.url, failure, self.patience)
                self._put_off(attempt, failure)
        raise AssertionError("unreachable")

    def metrics(self) -> str:
        """What the server counts of itself: the text of `/metrics`, beside the base of the interface.

        Raises:
            ValueError: it can't be read.
        """
        try:
            with self._connected() as connection:
                connection.request("GET", "/metrics", headers=self._headers())
                response = connection.getresponse()
                text = self._read(connection, response, time.monotonic() + self.timeout)
        except (HTTPException, OSError) as error:
            raise ValueError(f"engine={self.url!r}: its /metrics can't be read ({self._clean(repr(error))})") from None
        if response.status != 200:
            raise ValueError(f"engine={self.url!r}: its /metrics answers HTTP {response.status}; is it vLLM?")
        return text.decode(errors="replace")

    def abort(self) -> None:
        """End all requests, those under way too."""
        self._stop.set()
        with self._lock:
            for connection in self._open:
                _hang_up(connection)

    def _wait(self) -> None:
        """Until the server's wish not to be asked has run out."""
        while (seconds := self._not_before - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(seconds)
        if self._stop.is_set():
            raise Aborted

    def _put_off(self, attempt: int, failure: Failure) -> None:
        if failure.after is not None:
            if failure.after > PATIENCE:
                raise Failure(failure.reason, f"the server asks to wait {failure.after:.0f} s", transient=True)
            with self._lock:  # what one request is told holds for all
                self._not_before = max(self._not_before, time.monotonic() + failure.after)
        most = LONGEST_AWAITED if self.patience else LONGEST_WAIT
        longest = min(most, self.first_wait * 2 ** min(attempt, 9))
        self._stop.wait(random.uniform(longest / 2, longest))

    def _once(self, path: str, content: bytes) -> dict[str, Any]:
        deadline = time.monotonic() + self.timeout
        headers = {"Content-Type": "application/json", **self._headers()}
        try:
            with self._connected() as connection:
                connection.request("POST", f"{self._base}/{path}", content, headers)
                response = connection.getresponse()
                text = self._read(connection, response, deadline)
        except ssl.SSLCertVerificationError as error:
            raise ValueError(
                f"{self.section}.url={self.url!r}: its certificate is not trusted ({error.reason})"
            ) from None
        except (HTTPException, OSError) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise Failure("timeout", f"no whole reply within {self.timeout:g} s", transient=True) from None
            raise Failure("connection", self._clean(repr(error)), transient=True) from None
        return self._judge(response, text)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    @contextmanager
    def _connected(self) -> Iterator[HTTPConnection]:
        connection = self._connection(self._host, self._port, timeout=self.timeout)
        late = threading.Timer(self.timeout, _hang_up, [connection])  # one that drips before its body is late, too
        late.daemon = True
        with self._lock:
            self._open.add(connection)
        late.start()
        try:
            yield connection
        finally:
            late.cancel()
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _read(self, connection: HTTPConnection, response: HTTPResponse, deadline: float) -> bytes:
        """The body; a server that drips must be done by the deadline too."""
        pieces: list[bytes] = []
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:  # None where the server closes the connection behind its reply
                connection.sock.settimeout(left)
            piece = response.read1(2**16)
            pieces.append(piece)
            if not piece:
                break
            if sum(map(len, pieces)) > LARGEST:
                raise HTTPException(f"a reply of more than {LARGEST} bytes")
        if response.length:
            raise HTTPException(f"the reply lacks its last {response.length} bytes")
        return b"".join(pieces)

    def _judge(self, response: HTTPResponse, text: bytes) -> dict[str, Any]:
        status, said = response.status, self._clean(text[:2000].decode(errors="replace"))
        if status == 200:
            try:
                reply = json.loads(text)
            except (ValueError, RecursionError):
                reply = None
            if not isinstance(reply, dict):
                raise Failure("malformed reply", said, transient=True)
            return reply
        if status in NEVER or 300 <= status < 400:
            remedy = f"check {self.section}.url, model and api_key_env"
            raise ValueError(f"{self.section}.url={self.url!r}: HTTP {status} ({said}); {remedy}")
        transient = status in AGAIN or status >= 500
        raise Failure(f"HTTP {status}", said, transient, retry_after(response.headers.get("Retry-After")))

    def _clean(self, text: str) -> str:
        """On one line, short, and without the key."""
        text = " ".join(text.split())
        return (text.replace(self._key, "...") if self._key else text)[:300]


def _hang_up(connection: HTTPConnection) -> None:
    """End what another thread awaits of it."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(SHUT_RDWR)


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number of them, or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
