"""`drafter.*` of a recipe."""

from dataclasses import dataclass

from omegaconf import MISSING

from drafter.config.checks import require


@dataclass
class DrafterSettings:
    """The drafter's shape and start.

    Args:
        num_layers: depth.
        block_size: slots of a block, the anchor included.
        num_taps: taps, evenly spaced as DFlash does, unless tap_layers names them.
        tap_layers: 0-based layers of the verifier whose outputs are tapped; never the last.
        mask_token_id: id that fills the masked slots; one that text never uses.
        start: `verifier` (its last layers, copied), `random`, or the directory of a drafter.
        vocabulary: what may be proposed: `full`, `answers` (tokens of the training answers), or a number: the most
            frequent of them.
    """

    num_layers: int = 5
    block_size: int = 16
    num_taps: int = 5
    tap_layers: list[int] | None = None
    mask_token_id: int = MISSING
    start: str = "verifier"
    vocabulary: str = "full"

    def __post_init__(self) -> None:
        require(self.num_layers >= 1, "drafter.num_layers", self.num_layers, "must be >= 1")
        remedy = "needs the anchor and at least one draft slot (>= 2)"
        require(self.block_size >= 2, "drafter.block_size", self.block_size, remedy)
        require(self.num_taps >= 1, "drafter.num_taps", self.num_taps, "must be >= 1")
        known = self.vocabulary in ("full", "answers") or (self.vocabulary.isdigit() and int(self.vocabulary) > 0)
        require(known, "drafter.vocabulary", self.vocabulary, "choose full, answers or a number of tokens >= 1")
