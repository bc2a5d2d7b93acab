"""`decoding.*` of a recipe."""

from dataclasses import dataclass

from drafter.config.checks import require


@dataclass
class DecodingConfig:
    """The real decoding at the end of a run.

    Args:
        prompts: held-out prompts that are decoded plainly and speculatively.
        max_new_tokens: longest answer.
        draft_length: tokens proposed per cycle; null: chosen by the costs measured on the spot.
        tree_nodes: drafts of a tree, against the clock in place of drafts in a row; null for those.
    """

    prompts: int = 8
    max_new_tokens: int = 128
    draft_length: int | None = None
    tree_nodes: int | None = None

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "decoding.prompts", self.prompts, "must be >= 1")
        require(self.max_new_tokens >= 2, "decoding.max_new_tokens", self.max_new_tokens, "must be >= 2")
        nodes = self.tree_nodes
        require(nodes is None or nodes >= 1, "decoding.tree_nodes", nodes, "must be >= 1, or null for drafts in a row")
