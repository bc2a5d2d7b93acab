"""Proposing by block diffusion: one pass of the drafter over a block of mask tokens, the verifier's head behind it."""

from torch import Tensor, inf

from drafter.attention import KVCache
from drafter.decode.proposers.base import Proposal, SlotProposer, choose_ids
from drafter.decode.sampling import Law, likeliest
from drafter.machine.tiling import in_tiles, why_not_tiled
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier


class BlockDiffusionProposer(SlotProposer):
    """A block-diffusion drafter with its head, over what it may propose; in tiles where the verifier is.

    Args:
        drafter: of which tiles keep the weights as they are now.
        length: tokens proposed per cycle, at most the block size − 1.
    """

    def __init__(self, verifier: Verifier, drafter: BlockDiffusionDrafter, length: int):
        self.verifier, self.length = verifier, length
        tiled = verifier.tiles and not why_not_tiled(drafter.device, drafter.dtype)
        self.drafter = in_tiles(drafter) if tiled else drafter
        self.tap_layers = tuple(drafter.tap_layers)
        self.vocabulary = drafter.vocabulary  # [V'] or None: the whole vocabulary
        self.head = verifier.output.rows(self.vocabulary)
        if tiled and self.vocabulary is not None:
            self.head = self.head.tile()
        self.choices = len(self.head.weight)

    def new_state(self, batch: int, tokens: int) -> KVCache:
        capacity = tokens + self.drafter.block_size
        return self.drafter.new_cache(batch, capacity, self.verifier.kernel, self.verifier.replayed)

    def read(self, state: KVCache, ids: Tensor, taps: Tensor | None) -> None:
        if taps is not None:
            self.drafter.extend(taps, state)

    def commit(self, state: KVCache, ids: Tensor, taps: Tensor | None, accepted: Tensor) -> None:
        self.read(state, ids, taps)

    def propose(
        self,
        state: KVCache,
        anchors: Tensor,
        law: Law,
        noise: Tensor | None = None,
        *,
        laws: bool = False,
        confidences: bool = False,
    ) -> Proposal:
        hidden = self.hidden(state, anchors)  # [B, G, D]
        logits = self.logits(hidden)  # [B, G, V']
        if noise is None and not laws:
            sure = law.scores(logits).amax(-1).exp() if confidences else None  # [B, G]
            return Proposal(self.ids(likeliest(logits)), hidden=hidden, confidences=sure)
        probs = law(self.whole(logits))  # [B, G, V]
        sure = probs.amax(-1) if confidences else None
        return Proposal(choose_ids(probs, noise), probs if laws else None, hidden, sure)

    def scores(self, state: KVCache, anchors: Tensor, law: Law) -> Tensor:
        return law.scores(self.logits(self.hidden(state, anchors)))

    def hidden(self, state: KVCache, anchors: Tensor) -> Tensor:
        """States of the slots behind the anchors [B, 1]: [B, G, D]."""
        size = self.drafter.block_size
        slots = anchors.new_full((len(anchors), size), self.drafter.mask_token_id)  # [B, K] as trained, all of them
        slots[:, :1] = anchors
        return self.drafter.draft(self.verifier.embed(slots), state)[:, 1 : self.length + 1]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over what may be proposed: [..., D] -> [..., V']."""
        return self.verifier.logits(hidden) if self.vocabulary is None else self.head(hidden)

    def ids(self, places: Tensor) -> Tensor:
        return places if self.vocabulary is None else self.vocabulary[places]

    def whole(self, logits: Tensor) -> Tensor:
        """Logits [..., V'] over the whole vocabulary, [..., V]: what may not be proposed has no mass."""
        if self.vocabulary is None:
            return logits
        wide = logits.new_full((*logits.shape[:-1], self.verifier.head.shape[0]), -inf)
        return wide.index_copy_(-1, self.vocabulary, logits)
