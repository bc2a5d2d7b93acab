"""What a training step shows of itself: kept on the device, averaged over micro-batches and ranks when it is logged."""

import logging

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from losses import BlockScores, mean_over_ranks

log = logging.getLogger(__name__)


class Watched:
    """Figures of the micro-batches of a logged step; the steps between are not looked at."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._parts = 0
        self._told = False

    def add(
        self, total: Tensor, terms: dict[str, Tensor], norms: dict[str, Tensor], whole_blocks: tuple[Tensor, Tensor]
    ) -> None:
        """Take in a micro-batch.

        Args:
            total, terms, norms: its share of the step's objective, its terms, the norms of their gradients.
            whole_blocks: `tokens_of_whole_blocks`.
        """
        found = {"loss": total, **{f"train/{name}": value for name, value in terms.items()}}
        found |= {f"gradient_norm/{name}": norm for name, norm in norms.items()}
        found |= dict(zip(("tokens", "blocks"), whole_blocks, strict=True))
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self._parts += 1

    def take(self) -> dict[str, Tensor]:
        """The means, in one exchange between ranks; begins anew. Every rank must call.

        Without `tokens_per_block` where no block is whole: that is told once.
        """
        means = mean_over_ranks(torch.stack(list(self._sums.values())) / self._parts)
        found = dict(zip(self._sums, means.unbind(), strict=True))
        tokens, blocks = found.pop("tokens"), found.pop("blocks")
        if blocks > 0:
            found["tokens_per_block"] = tokens / blocks
        elif not self._told:
            self._told = True
            words = (
                "tokens_per_block: left out where no block of a logged step is whole, as in this one; answers are short"
            )
            rank_zero_only(log.info)("%s beside drafter.block_size", words)
        self._sums, self._parts = {}, 0
        return found


def tokens_of_whole_blocks(scores: BlockScores) -> tuple[Tensor, Tensor]:
    """Tokens that blocks would emit by greedy drafts, 1 + leading hits, summed; and how many blocks there are.

    Only whole blocks count: one cut by the end of its answer could not have had more.
    """
    whole = scores.valid[..., -1]  # [B, A]
    leading = scores.hit.long().cumprod(-1).sum(-1) + 1  # [B, A]
    return (leading * whole).sum(), whole.sum()
