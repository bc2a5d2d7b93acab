"""A cycle with a tree of drafts: grow → verify all nodes in one pass → walk → keep the path."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drafter.decode.chain import Outcome
from drafter.decode.costs import Costs
from drafter.decode.deciding import Decider
from drafter.decode.drafting import Proposer
from drafter.decode.pair import Pair
from drafter.decode.row import Row
from drafter.decode.tree import Tree, ancestors, grow, walk


class Branches:
    """Proposes a tree per row, of the same number of nodes.

    The verifier draws its own token behind every node and the walk follows those tokens, so that greedy or sampled, the
    output is the verifier's own, whatever the tree: of the draws, only those on the path are looked at.

    Args:
        nodes: drafts of a tree, the anchor not counted.
        costs: of passes at this batch size, to choose the number of nodes of each cycle, at most `nodes`, by the
            drafter's own probabilities as they are; None for all.
    """

    def __init__(self, pair: Pair, proposer: Proposer, decider: Decider, nodes: int, costs: Costs | None = None):
        self.pair, self.proposer, self.decider, self.nodes, self.costs = pair, proposer, decider, nodes, costs

    def cycle(self, rows: Sequence[Row | None], anchors: Tensor) -> Outcome:
        """Draft behind the anchors [B, 1] of `rows`, verify, walk; nothing is committed."""
        pair, device = self.pair, anchors.device
        trees, ids = self.grow(rows, anchors)
        depths = torch.tensor([tree.depths for tree in trees], device=device)  # [B, 1+N]
        parents = torch.tensor([tree.parents for tree in trees], device=device)  # [B, 1+N]
        with pair.cache.branching(depths, ancestors(parents, self.proposer.length)):
            hidden, taps = pair.verify(torch.tensor(ids, device=device))  # [B, 1+N, D]
        noise = self.decider.noise_at(rows, self.proposer.length + 1)  # [B, 1+G]
        own = self.decider.own(hidden, None if noise is None else noise.gather(1, depths)).tolist()
        walks = [walk(*one) for one in zip(trees, ids, own, strict=True)]
        longest = max(len(path) for path, _ in walks)
        straight = list(range(1, longest + 1))  # where nothing was accepted, what is there may stay
        path = torch.tensor([found + straight[len(found) :] for found, _ in walks], dtype=torch.long, device=device)
        if any(found != straight[: len(found)] for found, _ in walks):
            pair.cache.keep(path)
        if taps is not None:
            nodes = torch.nn.functional.pad(path, (1, 0))  # [B, 1+P] the anchor, then the path
            pair.extend(taps.gather(1, nodes[..., None].expand(-1, -1, taps.shape[-1])))
        kept = [[ids[row][node] for node in found] for row, (found, _) in enumerate(walks)]
        return Outcome(kept, [chosen for _, chosen in walks], len(ids[0]) - 1)

    def grow(self, rows: Sequence[Row | None], anchors: Tensor) -> tuple[list[Tree], list[list[int]]]:
        """A tree behind each anchor, and the tokens of its nodes, the anchor's first."""
        if self.pair.draft_cache is None:
            raise ValueError("a tree needs a drafter")
        scores = self.decider.scores(self.proposer, anchors, self.pair.draft_cache)  # [B, G, V']
        best = scores.topk(min(self.nodes, scores.shape[-1]), dim=-1)  # [B, G, R]
        values, tokens = best.values.tolist(), self.proposer.ids(best.indices).tolist()
        trees = [grow(value, self.nodes) for value in values]
        if self.costs is not None:
            totals = [0.0] * (self.nodes + 1)  # of all rows: a node adds the chance that its path is the verifier's
            for row, tree in zip(rows, trees, strict=True):
                expected = 0.0
                for node, chance in enumerate(tree.chances if row is not None else ()):
                    expected += chance
                    totals[node] += expected
            nodes = self.costs.best(totals)
            trees = [tree.first(nodes) for tree in trees]
        ids = [
            [
                anchor,
                *(tokens[row][depth - 1][rank] for depth, rank in zip(tree.depths[1:], tree.ranks[1:], strict=True)),
            ]
            for row, (tree, (anchor,)) in enumerate(zip(trees, anchors.tolist(), strict=True))
        ]
        return trees, ids
