"""`training.*` of a recipe of `system: alignment`."""

from dataclasses import dataclass
from typing import ClassVar

from drafter.config.checks import require
from drafter.config.fitting import FittingConfig


@dataclass
class TrainingConfig(FittingConfig):
    """Optimisation, and what a step of a block drafter sees.

    Args:
        anchors: blocks drawn per row; `auto`: as many as `memory_gb` holds, by arithmetic.
        memory_gb: that a step may take, the verifier's body left out.
        attention: kernel over the blocks of a row: `eager` (one dense mask), `split` (context and own block apart),
            `flex` (compiled FlexAttention, CUDA alone), or `auto`: eager where blocks are few and short,
            flex where many blocks stand behind long rows on CUDA, else split.
        sampled_tokens: with a restricted vocabulary, random tokens that stand in for the missing ones in every step,
            so that the full head serves the same drafter; 0 for none.
        chunk_size: slots whose logits exist at a time.
        labels: what slots predict: the `row`'s tokens, or the `verifier`'s argmax behind the row's tokens.
        temperature: of both laws, where a loss compares the drafter's with the verifier's.
        checkpointing: activations of a layer are computed again where its gradient needs them: less memory, more time.
        compile: let torch.compile make the kernels of the drafter's layers; the first steps then take a minute or more.
        average: decay of a moving average of the weights, which is validated beside them; 0 for none.
        strategy: also `fsdp`: weights, gradients and optimiser states are shared out over the ranks (FSDP2).
        exported: which of them chooses the checkpoint and is left: `average` or `raw`.
    """

    anchors: int | str = 32
    attention: str = "auto"
    sampled_tokens: int = 2048
    chunk_size: int = 256
    labels: str = "row"
    temperature: float = 1.0
    checkpointing: bool = False
    compile: bool = False
    memory_gb: float | None = None
    average: float = 0.0
    exported: str = "average"
    strategies: ClassVar[tuple[str, ...]] = ("auto", "ddp", "fsdp")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.anchors == "auto" or (isinstance(self.anchors, int) and self.anchors >= 1)
        require(known, "training.anchors", self.anchors, "must be >= 1, or auto")
        remedy = "as many as how much memory? set training.memory_gb"
        require(self.anchors != "auto" or self.memory_gb is not None, "training.anchors", self.anchors, remedy)
        remedy = "must be > 0, or null"
        require(self.memory_gb is None or self.memory_gb > 0, "training.memory_gb", self.memory_gb, remedy)
        require(self.chunk_size >= 1, "training.chunk_size", self.chunk_size, "must be >= 1")
        kernels = ("auto", "eager", "split", "flex")
        require(self.attention in kernels, "training.attention", self.attention, f"choose one of {', '.join(kernels)}")
        require(self.temperature > 0, "training.temperature", self.temperature, "must be > 0")
        require(self.sampled_tokens >= 0, "training.sampled_tokens", self.sampled_tokens, "must be >= 0")
        require(self.labels in ("row", "verifier"), "training.labels", self.labels, "choose row or verifier")
        require(0 <= self.average < 1, "training.average", self.average, "must lie in [0, 1); 0 for none")
        require(self.exported in ("average", "raw"), "training.exported", self.exported, "choose average or raw")
        whole = self.strategy != "fsdp"
        remedy = "scaled gradients can't be shared out; choose bfloat16 or float32 with training.strategy=fsdp"
        require(whole or self.precision != "float16", "training.precision", self.precision, remedy)
