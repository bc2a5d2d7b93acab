"""Hidden states that a vLLM server writes as they are asked for."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from drafter.config.tap_engine import TapEngineConfig
from drafter.data.rows import Row
from drafter.engine.client import FIRST_WAIT, Aborted, Client, Failure, Gone
from drafter.taps.files import key_of, written
from drafter.taps.states import Unwritten, finished, read_states

log = logging.getLogger(__name__)
SECTION = "data.tap_engine"


class StateServer:
    """Asks for a row's hidden states by `<url>/completions`, and reads the file that the reply names.

    A server that does not answer is waited for; a file that is missing, cut off or short is asked for again.

    Args:
        model: the verifier's name there.
        layers: those that it was started with, as we count them.
        last: `prenorm` where it was started with the last one, else `none`.
        width: of a state.
        first_wait: seconds before a second try.
    Raises:
        ValueError: the environment lacks the key.
    """

    def __init__(
        self,
        settings: TapEngineConfig,
        model: str,
        layers: Sequence[int],
        last: str,
        width: int,
        first_wait: float = FIRST_WAIT,
    ):
        self.settings, self.model, self.layers, self.last, self.width = settings, model, layers, last, width
        self._count = len(self.layers) + (last != "none")
        self._client = Client.of(settings, first_wait, section=SECTION, patience=settings.patience)
        self._folder = None if settings.path is None else Path(settings.path)
        self._kept = written(self._folder) if settings.keep and self._folder else {}
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="hidden-states")
        self._lock = threading.Lock()

    def of(self, rows: Sequence[Row]) -> list[Tensor]:
        """As `States`.

        Raises:
            Gone: no answer came for as long as the settings say.
        """
        return list(self._pool.map(self._states, rows))

    def where(self, row: Row) -> str:
        return f"{self.settings.url}, {len(row.ids)} tokens of {row.source!r}"

    def close(self) -> None:
        self._client.abort()
        self._pool.shutdown(cancel_futures=True)

    def _states(self, row: Row) -> Tensor:
        key = key_of(row.ids)
        for left in reversed(range(self.settings.retries + 1)):
            path = self._kept.get(key) or self._ask(row)
            try:
                if not finished(path, self.settings.timeout, lambda: self._client.stopped):
                    raise Unwritten(f"hidden states: {path} is locked for more than {self.settings.timeout:g} s")
                states = read_states(path, row.ids, self._count, self.width)
            except Unwritten as error:
                self._kept.pop(key, None)
                if self._client.stopped:
                    raise Aborted from None
                if not left:
                    tries = self.settings.retries + 1
                    said = f"{error} (asked for {tries} times; is {SECTION}.path the folder that the server writes?)"
                    raise ValueError(said) from None
                log.info("%s; it is asked for again", error)
                continue
            if self.settings.keep:
                self._kept[key] = path
            else:
                path.unlink(missing_ok=True)
            return states
        raise AssertionError("unreachable")

    def _ask(self, row: Row) -> Path:
        """Let the server write a row's states; returns the file, which may be unfinished."""
        body = {"model": self.model, "prompt": row.ids, "max_tokens": 1, "temperature": 0.0, "return_token_ids": True}
        url = self.settings.url

        def read(reply: dict[str, Any]) -> Path:
            said = reply.get("kv_transfer_params")
            named = said.get("hidden_states_path") if isinstance(said, dict) else None
            if not isinstance(named, str) or not named.endswith(".safetensors"):
                raise ValueError(
                    f"{SECTION}.url={url!r}: writes no hidden states; start it as `drafter engine RECIPE --states "
                    "FOLDER` says"
                )
            return Path(named) if self._folder is None else self._folder / Path(named).name

        try:
            return self._client.post("completions", body, read)
        except Failure as failure:
            if failure.transient:
                raise Gone(
                    f"{SECTION}.url={url!r}: no answer for {self.settings.patience:g} s ({failure}); nothing is lost: "
                    "start it, then give the same command again"
                ) from None
            raise ValueError(f"{SECTION}.url={url!r}: refuses {self.where(row)} ({failure}); mend it") from None
