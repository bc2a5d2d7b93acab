"""Proposing: one pass of the drafter over a block of mask tokens, its head over the tokens that it may propose."""

from torch import Tensor, inf

from drafter.attention import KVCache
from drafter.decode.deciding import Decider
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier


class Proposer:
    """A drafter with its head.

    Args:
        length: tokens proposed per cycle.
    """

    def __init__(self, verifier: Verifier, drafter: BlockDiffusionDrafter, length: int):
        self.verifier, self.drafter, self.length = verifier, drafter, length
        self.tap_layers = tuple(drafter.tap_layers)
        self.vocabulary = drafter.vocabulary  # [V'] or None: the whole vocabulary
        self.head = verifier.head if self.vocabulary is None else verifier.head[self.vocabulary].contiguous()

    def logits(self, anchors: Tensor, cache: KVCache) -> Tensor:
        """Logits of the slots behind the anchors [B, 1], over what may be proposed: [B, G, V']."""
        masks = anchors.new_full((len(anchors), self.drafter.block_size - 1), self.drafter.mask_token_id)
        slots = anchors.new_empty((len(anchors), self.drafter.block_size))  # [B, K] as trained, however few are kept
        slots[:, :1], slots[:, 1:] = anchors, masks
        hidden = self.drafter.draft(self.verifier.embed(slots), cache)[:, 1 : self.length + 1]  # [B, G, D]
        return hidden @ self.head.T

    def propose(self, anchors: Tensor, cache: KVCache, decider: Decider) -> tuple[Tensor, Tensor | None]:
        """Drafts [B, G] behind the anchors [B, 1] and, for rules that need them, their laws [B, G, V]."""
        logits = self.logits(anchors, cache)
        if decider.drafts_best:
            ids = logits.argmax(-1)
            return (ids if self.vocabulary is None else self.vocabulary[ids]), None
        return decider.draw(self.whole(logits))

    def whole(self, logits: Tensor) -> Tensor:
        """Logits [..., V'] over the whole vocabulary, [..., V]: what may not be proposed has no mass."""
        if self.vocabulary is None:
            return logits
        wide = logits.new_full((*logits.shape[:-1], self.verifier.head.shape[0]), -inf)
        return wide.index_copy_(-1, self.vocabulary, logits)
