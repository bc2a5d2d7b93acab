"""A cycle with a tree of drafts: grow → verify all nodes in one pass → walk → keep the path."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drafter.decode.answering import Answering
from drafter.decode.costs import Costs
from drafter.decode.deciding import Decider
from drafter.decode.pair import Pair
from drafter.decode.proposers import SlotProposer
from drafter.decode.schemes.base import Outcome, Verified
from drafter.decode.tree import Tree, ancestors, grow, walk_tree


class Branches(Verified):
    """Proposes a tree per row, of the same number of nodes.

    The verifier draws its own token behind every node and the walk follows those tokens, so that greedy or sampled, the
    output is the verifier's own, whatever the tree: of the draws, only those on the path are looked at.

    Args:
        proposer: the pair's.
        nodes: drafts of a tree, the anchor not counted.
        costs: of passes at this batch size, to choose the number of nodes of each cycle, at most `nodes`, by the
            drafter's own probabilities as they are; None for all.
    """

    def __init__(self, pair: Pair, proposer: SlotProposer, decider: Decider, nodes: int, costs: Costs | None = None):
        super().__init__(pair, decider)
        self.proposer, self.nodes, self.costs = proposer, nodes, costs

    def cycle(self, rows: Sequence[Answering | None]) -> Outcome:
        pair, anchors = self.pair, self.begin(rows)
        trees, ids = self.grow(rows, anchors)
        depths = torch.tensor([tree.depths for tree in trees], device=anchors.device)  # [B, 1+N]
        parents = torch.tensor([tree.parents for tree in trees], device=anchors.device)  # [B, 1+N]
        tokens = torch.tensor(ids, device=anchors.device)  # [B, 1+N]
        with pair.cache.branching(depths, ancestors(parents, self.proposer.length)):
            hidden, taps = pair.verify(tokens)  # [B, 1+N, D]
        noise = self.decider.noise_at(rows, self.proposer.length + 1)  # [B, 1+G]
        own = self.decider.own(hidden, None if noise is None else noise.gather(1, depths)).tolist()
        walks = [walk_tree(*one) for one in zip(trees, ids, own, strict=True)]
        self.keep([path for path, _ in walks], tokens, taps)
        return Outcome(
            [[*(ids[row][node] for node in path), chosen] for row, (path, chosen) in enumerate(walks)],
            [len(path) for path, _ in walks],
            len(ids[0]) - 1,
        )

    def keep(self, paths: Sequence[list[int]], tokens: Tensor, taps: Tensor | None) -> None:
        """Leave both models with what stands on each row's path."""
        longest = max(map(len, paths))
        straight = list(range(1, longest + 1))  # where nothing was accepted, what is there may stay
        path = torch.tensor([[*found, *straight[len(found) :]] for found in paths], dtype=torch.long)
        path = path.to(tokens.device)  # [B, P]
        if any(found != straight[: len(found)] for found in paths):
            self.pair.cache.keep(path)
        nodes = torch.nn.functional.pad(path, (1, 0))  # [B, 1+P] the anchor, then the path
        if taps is not None:
            taps = taps.gather(1, nodes[..., None].expand(-1, -1, taps.shape[-1]))
        accepted = torch.tensor([len(found) for found in paths], device=tokens.device)  # [B]
        self.pair.commit(tokens.gather(1, nodes), taps, accepted)

    def grow(self, rows: Sequence[Answering | None], anchors: Tensor) -> tuple[list[Tree], list[list[int]]]:
        """A tree behind each anchor, and the tokens of its nodes, the anchor's first."""
        scores = self.proposer.scores(self.pair.state, anchors, self.decider.law)  # [B, G, V']
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
