"""`drafter.*` of a recipe."""

from dataclasses import dataclass
from pathlib import Path

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
        vocabulary: what may be proposed: `full`, `answers` (tokens of the training answers), a number (the most
            frequent of them), or a file that counts tokens: FILE or FILE:N, JSON `{"token id": count}` or answers.
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
        remedy = "name at least one layer, or null for drafter.num_taps"
        require(self.tap_layers is None or bool(self.tap_layers), "drafter.tap_layers", self.tap_layers, remedy)
        asked, number = self.counted()
        known = number is None if asked == "full" else asked == "answers" or Path(asked).exists()
        remedy = "choose full, answers, a number of tokens >= 1, or a file that counts them"
        require(known and number != 0, "drafter.vocabulary", self.vocabulary, remedy)

    def counted(self) -> tuple[str, int | None]:
        """What counts the tokens, `full`, `answers` or a file, and how many of them are taken; None: all."""
        return counted(f"answers:{self.vocabulary}" if self.vocabulary.isdigit() else self.vocabulary)


def counted(words: str) -> tuple[str, int | None]:
    """NAME or NAME:N as name and number."""
    name, colon, number = words.rpartition(":")
    return (name, int(number)) if colon and number.isdigit() else (words, None)
