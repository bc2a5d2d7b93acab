"""`data.tap_files.*` of a recipe."""

from dataclasses import dataclass

from drafter.config.checks import require

NUMBERINGS = ("ours", "vllm")
LAST = ("none", "prenorm", "postnorm")


@dataclass
class TapFilesConfig:
    """Where `data.taps` is `files`: hidden states that an engine wrote, a safetensors file for each row.

    Args:
        path: their folder, folders in it too; a file is found by the token ids that it holds, whatever its name.
        layers: the layers that a file holds, in its order, without the last states; null: the drafter's tap layers.
        numbering: of `layers`: `ours` (0 is the first layer) or `vllm` (0 is the embedding, i the layer i - 1 of ours).
        last: what stands behind them of the verifier's last layer: `none`, its output (`prenorm`: vLLM, speculators)
            or that behind the final norm (`postnorm`).
    """

    path: str | None = None
    layers: list[int] | None = None
    numbering: str = "ours"
    last: str = "none"

    def __post_init__(self) -> None:
        require(
            self.numbering in NUMBERINGS,
            "data.tap_files.numbering",
            self.numbering,
            f"choose one of {', '.join(NUMBERINGS)}",
        )
        require(self.last in LAST, "data.tap_files.last", self.last, f"choose one of {', '.join(LAST)}")
        distinct = self.layers is None or (bool(self.layers) and len(set(self.layers)) == len(self.layers))
        require(distinct, "data.tap_files.layers", self.layers, "name each layer of a file once, or null")
