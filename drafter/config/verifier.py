"""`verifier.*` of a recipe."""

from dataclasses import dataclass

from omegaconf import MISSING

from drafter.config.checks import require


@dataclass
class VerifierConfig:
    """The frozen model.

    Args:
        source: hub id, directory, GGUF file, or a packaged name (`smollm2`).
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:0`, ...
        attention: kernel of the decoder: `auto`, `sdpa` or `flash_attn`.
    """

    source: str = MISSING
    device: str = "auto"
    attention: str = "auto"

    def __post_init__(self) -> None:
        kernels = ("auto", "sdpa", "flash_attn")
        require(self.attention in kernels, "verifier.attention", self.attention, f"choose one of {', '.join(kernels)}")
