"""Which way of drafting pays here: tokens per cycle of every length and tree along known answers, over their passes."""

from collections.abc import Sequence
from typing import Any

from drafter.decode import Costs
from drafter.decode.tree import Tree, grow, most_nodes, walk_tree
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.slots import LIKELIEST, Observed
from drafter.evaluation.walk import leading_of, walk

TREES = (4, 8, 16, LIKELIEST)


def what_pays(observed: Sequence[Observed | None], answers: Sequence[list[int]], costs: Costs) -> list[dict[str, Any]]:
    """Every draft length and some trees, the fastest first.

    Args:
        answers: token ids, of which `observed` is.
        costs: of passes of one row, up to the widest tree.
    Returns:
        drafts, tokens_per_cycle, and ideal: the speed over plain decoding if a cycle were its passes alone.
    """
    seen = [(one, answer) for one, answer in zip(observed, answers, strict=True) if one is not None]
    leading = leading_of((one.hits, one.valid) for one, _ in seen)
    slots, choices = seen[0][0].scores.shape[1:]
    ways = {f"{length} in a row": (walk(leading, length), length) for length in range(1, slots + 1)}
    for nodes in TREES:
        if nodes <= min(most_nodes(slots, choices), len(costs.verify) - 1):
            ways[f"a tree of {nodes}"] = (walk_trees(seen, nodes), nodes)
    found = [
        {"drafts": name, "tokens_per_cycle": cycles.tokens_per_cycle, "ideal": costs.ideal(cycles.tokens_per_cycle, n)}
        for name, (cycles, n) in ways.items()
    ]
    return sorted(found, key=lambda one: -one["ideal"])


def walk_trees(seen: Sequence[tuple[Observed, list[int]]], nodes: int) -> Cycles:
    """The cycles along answers of a decoder that drafts trees of so many nodes: greedy, so the answer is known."""
    found = Cycles.none(seen[0][0].scores.shape[1])
    for one, answer in seen:
        emitted, accepted, at = [], [], 0
        while at < len(answer) - 1:
            left = len(answer) - 1 - at
            keep = min(_kept(one, at, nodes, answer), left)
            emitted.append(min(keep + 1, left))
            accepted.append(keep)
            at += keep + 1
        found.add(emitted, accepted)
    return found


def _kept(one: Observed, at: int, nodes: int, answer: list[int]) -> int:
    """How many tokens behind answer token `at` a tree holds on one path."""
    widest = min(nodes, one.scores.shape[2])
    tree: Tree = grow(one.scores[at, :, :widest].tolist(), nodes)
    tokens = one.tokens[at].tolist()
    below = zip(tree.depths[1:], tree.ranks[1:], strict=True)
    ids = [answer[at], *(tokens[depth - 1][rank] for depth, rank in below)]
    own = [answer[at + depth + 1] if at + depth + 1 < len(answer) else -1 for depth in tree.depths]
    return len(walk_tree(tree, ids, own)[0])
