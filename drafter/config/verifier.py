"""`verifier.*` of a recipe."""

from dataclasses import dataclass

from omegaconf import MISSING

from drafter.config.checks import require


@dataclass
class VerifierConfig:
    """The frozen model.

    Args:
        source: hub id, directory, GGUF file, or a packaged name (`smollm2`).
        body: `here` (the whole model is loaded), or `none`: only embedding, norm and head are read, taps come from
            files or an engine, and nothing is decoded.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:0`, ...
        attention: kernel of the decoder: `auto`, `sdpa` or `flash_attn`.
    """

    source: str = MISSING
    body: str = "here"
    device: str = "auto"
    attention: str = "auto"

    def __post_init__(self) -> None:
        require(self.body in ("here", "none"), "verifier.body", self.body, "choose here or none")
        kernels = ("auto", "sdpa", "flash_attn")
        require(self.attention in kernels, "verifier.attention", self.attention, f"choose one of {', '.join(kernels)}")

    def require_body(self, what: str, instead: str = "") -> None:
        """Raise a ValueError where the layers are not here and `what` runs them; `instead` says what else would do."""
        remedy = f"{what} runs the verifier's layers; set verifier.body=here where they fit"
        require(self.body == "here", "verifier.body", self.body, remedy + (instead and f", or {instead}"))
