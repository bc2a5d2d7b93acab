"""`data.server.*` of a recipe."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from drafter.config.checks import require

OWN = ("messages", "model", "max_tokens", "temperature", "top_p", "seed", "stream", "n")  # set by other keys
HOW = ("url", "concurrency", "retries", "timeout", "api_key_env", "check_prompts")  # decide no answer


@dataclass
class ServerConfig:
    """An OpenAI-compatible server (vLLM, SGLang, `transformers serve`) that answers in the verifier's stead.

    Args:
        url: its base, such as `http://localhost:8000/v1`; null: the verifier answers here.
        model: the verifier's name there.
        concurrency: requests at a time.
        retries: further tries of a request after 408, 425, 429, 5xx, a lost connection, a time-out or a reply that
            makes no sense.
        timeout: seconds for one try.
        api_key_env: name of the environment variable that holds the key; the key itself is written nowhere.
        token_ids: ask for the answer's token ids (vLLM's `return_token_ids`); otherwise its text is tokenised here.
        check_prompts: compare the server's count of prompt tokens with that of the verifier's chat template here.
        extra: further fields of each request, such as `{repetition_penalty: 1.0, top_k: -1}` for a vLLM that takes
            defaults from the model's generation config. They are written into manifests: no place for a key.
    """

    url: str | None = None
    model: str | None = None
    concurrency: int = 16
    retries: int = 5
    timeout: float = 120.0
    api_key_env: str | None = None
    token_ids: bool = False
    check_prompts: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0)):
            require(getattr(self, name) >= least, f"data.server.{name}", getattr(self, name), f"must be >= {least}")
        require(self.timeout > 0, "data.server.timeout", self.timeout, "must be > 0 seconds")
        taken = sorted(set(self.extra) & set(OWN))
        require(not taken, "data.server.extra", taken, "set by other keys of the recipe; leave them out")
        check_address("data.server", self.url)
        require(not self.url or bool(self.model), "data.server.model", self.model, "name the model as the server does")


def check_address(section: str, url: str | None) -> None:
    """Refuse the address of a server that is none, or holds a password."""
    if url is not None:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        require(known, f"{section}.url", url, "write it as http://host:port/v1")
        require("@" not in parts.netloc, f"{section}.url", "...", f"holds a password; use {section}.api_key_env")
