"""`data.tap_engine.*` of a recipe."""

from dataclasses import dataclass

from drafter.config.checks import require
from drafter.config.server import check_address


@dataclass
class TapEngineConfig:
    """Where `data.taps` is `engine`: a vLLM server that writes hidden states as training asks for them.

    `drafter engine RECIPE --states FOLDER` says how it is started for this recipe; with --start it starts it.

    Args:
        url: its base, such as `http://localhost:8000/v1`.
        model: the verifier's name there; null: as `data.server.model`, or `verifier.source`.
        path: the server's FOLDER as it is seen from here; null: under the same path.
        keep: leave the files there, for later epochs and, where `path` is named, later runs; else each is deleted once
            it is read.
        concurrency: rows asked for at a time.
        prefetch: batches that are asked for beside the step.
        timeout: seconds for one try of a row, its file included.
        retries: further tries of a row whose file is missing or cut off.
        patience: seconds to wait for a server that does not answer, before the run ends with a checkpoint.
        api_key_env: name of the environment variable that holds the key; the key itself is written nowhere.
    """

    url: str | None = None
    model: str | None = None
    path: str | None = None
    keep: bool = False
    concurrency: int = 8
    prefetch: int = 2
    timeout: float = 120.0
    retries: int = 3
    patience: float = 300.0
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("prefetch", 0), ("retries", 0), ("patience", 0)):
            require(getattr(self, name) >= least, f"data.tap_engine.{name}", getattr(self, name), f"must be >= {least}")
        require(self.timeout > 0, "data.tap_engine.timeout", self.timeout, "must be > 0 seconds")
        check_address("data.tap_engine", self.url)
