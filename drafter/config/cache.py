"""`data.cache.*` of a recipe."""

from dataclasses import dataclass

from drafter.config.checks import require

DTYPES = ("auto", "bfloat16", "float32", "int8")


@dataclass
class CacheConfig:
    """Where `data.taps` is not `online`: how the taps of training rows lie on disk.

    Args:
        dtype: `auto` (as the verifier makes them), `bfloat16`, `float32`, or `int8` with a scale per token and tap:
            about half of bfloat16, and not exact.
        max_gb: more than this is refused, with the size named, ...
        confirm: ... unless this says that it is meant.
    """

    dtype: str = "auto"
    max_gb: float = 20.0
    confirm: bool = False

    def __post_init__(self) -> None:
        require(self.dtype in DTYPES, "data.cache.dtype", self.dtype, f"choose one of {', '.join(DTYPES)}")
        require(self.max_gb > 0, "data.cache.max_gb", self.max_gb, "must be > 0; data.taps=online keeps none")
