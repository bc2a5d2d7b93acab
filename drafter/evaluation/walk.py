"""Tokens per cycle without decoding: draft at every position in one pass, then walk along the known answer.

Greedy decoding is lossless, so along the verifier's own greedy answer its cycles are known: jump by accepted + 1. It
equals the decoder's own count in exact arithmetic and has no sampling noise.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drafter.blocks import every_anchor, slot_ids, slot_labels
from drafter.data.rows import Rows
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import VerifierHead
from drafter.verifier.output import OutputHead

ANCHORS_PER_PASS = 512


@dataclass
class Walk:
    """Cycles along the answers of some rows.

    Attributes:
        emitted: tokens of each cycle, per row.
        accepted: draft tokens kept in each cycle, per row.
        reached, kept: per slot, how many cycles came to it with all earlier slots accepted, and how many kept it too.
    """

    emitted: list[list[int]] = field(default_factory=list)
    accepted: list[list[int]] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def add(self, emitted: list[int], accepted: list[int]) -> None:
        """Take in the cycles of one more row."""
        self.emitted.append(emitted)
        self.accepted.append(accepted)
        left = sum(emitted)
        for tokens, keep in zip(emitted, accepted, strict=True):
            for slot in range(min(len(self.kept), left)):
                self.reached[slot] += slot <= keep
                self.kept[slot] += slot < keep
            left -= tokens

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens emitted by cycles over cycles, summed over rows."""
        return sum(map(sum, self.emitted)) / max(1, sum(map(len, self.emitted)))

    def interval(self, share: float = 0.95, draws: int = 2000) -> tuple[float, float]:
        """Where tokens per cycle lie in `share` of bootstrap samples of the rows; the same for the same walk."""
        tokens = torch.tensor([sum(row) for row in self.emitted], dtype=torch.float64)
        cycles = torch.tensor([len(row) for row in self.emitted], dtype=torch.float64)
        rows = max(1, len(tokens))
        drawn = torch.randint(0, rows, (draws, rows), generator=torch.Generator().manual_seed(0))
        found = (tokens[drawn].sum(1) / cycles[drawn].sum(1).clamp(min=1)).sort().values
        cut = round(draws * (1 - share) / 2)
        return float(found[cut]), float(found[-1 - cut])

    @property
    def accepted_per_cycle(self) -> float:
        """Draft tokens kept over cycles, summed over rows."""
        return sum(map(sum, self.accepted)) / max(1, sum(map(len, self.accepted)))

    @property
    def kept_share(self) -> list[float]:
        """Per slot, the share of all cycles that kept it."""
        cycles = max(1, sum(map(len, self.emitted)))
        return [count / cycles for count in self.kept]

    @property
    def acceptance(self) -> list[float]:
        """Per slot, the share that kept it of the cycles that had kept all slots before it; NaN without one."""
        return [kept / reached if reached else math.nan for kept, reached in zip(self.kept, self.reached, strict=True)]


def walk_row(leading: list[int], draft_length: int) -> tuple[list[int], list[int]]:
    """The cycles of one answer.

    Args:
        leading: for each anchor, in order, how many drafts match from the first slot on; anchor i is answer token i.
    Returns:
        emitted and accepted tokens of each cycle. The token after the last anchor ends the answer.
    """
    emitted, accepted, at = [], [], 0
    while at < len(leading):
        left = len(leading) - at
        keep = min(leading[at], draft_length, left)
        emitted.append(min(keep + 1, left))
        accepted.append(keep)
        at += keep + 1
    return emitted, accepted


@torch.no_grad()
def leading_matches(
    drafter: BlockDiffusionDrafter,
    verifier: VerifierHead,
    rows: Rows,
    taps: Tensor,
) -> list[list[int]]:
    """For every anchor of every row, how many greedy drafts match the answer before the first miss.

    Args:
        taps: of the rows, [B, S, T*D].
    """
    size, vocabulary = drafter.block_size, drafter.vocabulary
    anchors, used = every_anchor(rows.supervised)  # [B, A]
    head = verifier.output.rows(vocabulary).to(torch.float32)
    found: list[list[int]] = [[] for _ in range(len(anchors))]
    for some, use in zip(anchors.split(ANCHORS_PER_PASS, 1), used.split(ANCHORS_PER_PASS, 1), strict=True):
        block = verifier.embed(slot_ids(rows.ids, some, size, drafter.mask_token_id))  # [B, A, K, D]
        hidden = drafter(block, taps, some)[:, :, 1:]  # [B, A, G, D]
        labels, valid = slot_labels(rows.ids, rows.supervised, some, use, size)  # [B, A, G]
        drafted = torch.zeros_like(labels)
        drafted[valid] = _propose(hidden[valid], head, vocabulary)
        leading = ((drafted == labels) & valid).cumprod(-1).sum(-1)  # [B, A]
        for row, counts in enumerate(leading):
            found[row] += counts[use[row]].tolist()
    return found


def _propose(hidden: Tensor, head: OutputHead, vocabulary: Tensor | None, chunk_size: int = 512) -> Tensor:
    best = torch.cat([head(part).argmax(-1) for part in hidden.split(chunk_size)])  # [N]
    return best if vocabulary is None else vocabulary[best]


def walk(leading: Iterable[list[int]], draft_length: int) -> Walk:
    """Walk along rows given their `leading_matches`."""
    result = Walk(reached=[0] * draft_length, kept=[0] * draft_length)
    for row in leading:
        result.add(*walk_row(row, draft_length))
    return result
