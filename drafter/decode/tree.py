"""Trees of drafts: grown best first from the slots' own laws, walked by the verifier's own tokens. Pure functions.

The drafter's slots know nothing of each other, so a path is as likely as the product of its tokens. Node 0 is the
anchor; nodes stand in the order in which they were grown, parents before children, likeliest first.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Nodes 0..N of a tree, the anchor first.

    Attributes:
        parents: the node before each node; the anchor is its own.
        depths: the slot of each node; 0 for the anchor.
        ranks: which of its slot's likeliest tokens a node holds.
        chances: probability of the path to each node by the drafter, descending.
    """

    parents: list[int]
    depths: list[int]
    ranks: list[int]
    chances: list[float]

    def first(self, nodes: int) -> "Tree":
        """The tree of the first `nodes` nodes behind the anchor: the one that fewer nodes would have grown."""
        end = nodes + 1
        return Tree(self.parents[:end], self.depths[:end], self.ranks[:end], self.chances[:end])


def most_nodes(slots: int, choices: int) -> int:
    """How many nodes a tree of that depth can have."""
    return sum(choices**depth for depth in range(1, slots + 1))


def grow(scores: Sequence[Sequence[float]], nodes: int) -> Tree:
    """The `nodes` likeliest prefixes of a block.

    Args:
        scores: of each slot, log-probabilities of its likeliest tokens, descending; as many as nodes, or all.
        nodes: at most `most_nodes`.
    Source: best-first search over the product of marginals, arXiv:2604.12989 (DDTree).
    """
    tree = Tree([0], [0], [0], [1.0])
    waiting = [(-scores[0][0], 0, 1, 0, 0.0)]  # minus its path's score, parent, depth, rank, score of the parent's path
    for node in range(1, nodes + 1):
        cost, parent, depth, rank, before = heapq.heappop(waiting)
        tree.parents.append(parent)
        tree.depths.append(depth)
        tree.ranks.append(rank)
        tree.chances.append(math.exp(-cost))
        if rank + 1 < len(scores[depth - 1]):
            heapq.heappush(waiting, (-(before + scores[depth - 1][rank + 1]), parent, depth, rank + 1, before))
        if depth < len(scores):
            heapq.heappush(waiting, (cost - scores[depth][0], node, depth + 1, 0, -cost))
    return tree


def ancestors(parents: Tensor, depth: int) -> Tensor:
    """Which nodes lie on the path to each node, itself included.

    Args:
        parents: [B, M]; a node's parent comes before it, the first is its own.
        depth: of the deepest node.
    Returns:
        bool [B, M, M].
    """
    count = parents.shape[1]
    own = torch.eye(count, dtype=torch.bool, device=parents.device).expand(len(parents), -1, -1)  # [B, M, M]
    seen, above = own, parents[..., None].expand(-1, -1, count)
    for _ in range(depth):
        seen = own | seen.gather(1, above)
    return seen


def walk_tree(tree: Tree, ids: Sequence[int], own: Sequence[int]) -> tuple[list[int], int]:
    """Follow the verifier's own tokens down the tree.

    Args:
        ids: the token of each node.
        own: what the verifier chose behind each node: by argmax, or drawn from its law there.
    Returns:
        the nodes behind the anchor that hold its choices, and its choice behind the last of them, which none holds.
        Both together are what the verifier alone would have written, whatever the tree holds: every token is the
        verifier's own at its prefix.
    """
    below = {(parent, token): node for node, (parent, token) in enumerate(zip(tree.parents, ids, strict=True)) if node}
    path, node = [], 0
    while (node, own[node]) in below:
        node = below[node, own[node]]
        path.append(node)
    return path, own[node]
