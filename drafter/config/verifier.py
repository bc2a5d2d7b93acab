"""`verifier.*` of a recipe."""

from dataclasses import dataclass

from omegaconf import MISSING

from drafter.config.checks import require

DTYPES = ("float32", "bfloat16", "float16")
KERNELS = ("auto", "sdpa", "flash_attn", "flash_cpu")


@dataclass
class VerifierConfig:
    """The frozen model.

    Args:
        source: hub id, directory, GGUF file, or a packaged name (`smollm2`).
        body: `here` (the whole model is loaded), or `none`: only embedding, norm and head are read, taps come from
            files or an engine, and nothing is decoded.
        dtype: of the weights that answer, tap and decode: `float32` is exact, and training in bfloat16 loads a second
            copy for its taps; `bfloat16` and `float16` are one copy for everything.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:0`, ...
        attention: kernel of the decoder: `auto`, `sdpa`, `flash_attn` or `flash_cpu`.
    """

    source: str = MISSING
    body: str = "here"
    dtype: str = "float32"
    device: str = "auto"
    attention: str = "auto"

    def __post_init__(self) -> None:
        require(self.body in ("here", "none"), "verifier.body", self.body, "choose here or none")
        require(self.dtype in DTYPES, "verifier.dtype", self.dtype, f"choose one of {', '.join(DTYPES)}")
        require(self.attention in KERNELS, "verifier.attention", self.attention, f"choose one of {', '.join(KERNELS)}")

    def require_float32(self, what: str) -> None:
        """Raise a ValueError where `what`, which trains copies of its weights, is asked for in fewer bits."""
        require(self.dtype == "float32", "verifier.dtype", self.dtype, f"{what} trains its weights; leave it float32")

    def require_body(self, what: str, instead: str = "") -> None:
        """Raise a ValueError where the layers are not here and `what` runs them; `instead` says what else would do."""
        remedy = f"{what} runs the verifier's layers; set verifier.body=here where they fit"
        require(self.body == "here", "verifier.body", self.body, remedy + (instead and f", or {instead}"))
