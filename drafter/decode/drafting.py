"""Proposing: one pass of the drafter over a block of mask tokens, its head over the tokens that it may propose."""

from dataclasses import dataclass

from torch import Tensor, inf

from drafter.attention import KVCache
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier


@dataclass(frozen=True)
class Drafts:
    """What one cycle proposes.

    Attributes:
        ids: [B, G].
        probs: the laws that they were drawn from, [B, G, V]; None for rules that need none.
        hidden: the drafter's states behind its last norm, [B, G, D].
        confidences: the highest probability of each slot's law, [B, G]; where they are asked for.
    """

    ids: Tensor
    probs: Tensor | None = None
    hidden: Tensor | None = None
    confidences: Tensor | None = None

    def first(self, length: int) -> "Drafts":
        """The first `length` drafts of each row."""
        probs = None if self.probs is None else self.probs[:, :length]
        hidden = None if self.hidden is None else self.hidden[:, :length]
        return Drafts(self.ids[:, :length], probs, hidden)


class Proposer:
    """A drafter with its head.

    Args:
        length: tokens proposed per cycle.
    """

    def __init__(self, verifier: Verifier, drafter: BlockDiffusionDrafter, length: int):
        self.verifier, self.drafter, self.length = verifier, drafter, length
        self.tap_layers = tuple(drafter.tap_layers)
        self.vocabulary = drafter.vocabulary  # [V'] or None: the whole vocabulary
        self.head = verifier.output.rows(self.vocabulary)

    def hidden(self, anchors: Tensor, cache: KVCache) -> Tensor:
        """States of the slots behind the anchors [B, 1]: [B, G, D]."""
        size = self.drafter.block_size
        slots = anchors.new_full((len(anchors), size), self.drafter.mask_token_id)  # [B, K] as trained, all of them
        slots[:, :1] = anchors
        return self.drafter.draft(self.verifier.embed(slots), cache)[:, 1 : self.length + 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over what may be proposed: [..., D] -> [..., V']."""
        return self.head(hidden)

    def ids(self, places: Tensor) -> Tensor:
        """Token ids of places among what may be proposed."""
        return places if self.vocabulary is None else self.vocabulary[places]

    def whole(self, logits: Tensor) -> Tensor:
        """Logits [..., V'] over the whole vocabulary, [..., V]: what may not be proposed has no mass."""
        if self.vocabulary is None:
            return logits
        wide = logits.new_full((*logits.shape[:-1], self.verifier.head.shape[0]), -inf)
        return wide.index_copy_(-1, self.vocabulary, logits)
