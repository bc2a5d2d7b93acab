"""Trees of drafts: grown, masked, walked and kept as their definitions say; what comes out is the verifier's own."""

import itertools
import logging
import math
import random

import pytest
import torch
from conftest import NEW_TOKENS, make_answers, make_drafter, make_memorising, make_prompts, make_verifier
from test_attention import HEADS, new_cache, new_tokens

from drafter.attention import cache as caches
from drafter.decode import Costs, SpeculativeDecoder, tokens_per_cycle
from drafter.decode.pair import Pair
from drafter.decode.sampling import Law
from drafter.decode.tree import Tree, ancestors, grow, most_nodes, walk_tree
from tests import naive_verification as naive


def random_scores(seed, slots, choices):
    generator = torch.Generator().manual_seed(seed)
    laws = (2 * torch.randn(slots, choices, generator=generator, dtype=torch.float64)).softmax(-1)
    return laws.log().sort(-1, descending=True).values.tolist()


def paths(tree):
    """Ranks from the anchor to each node."""
    found = [()]
    for parent, rank in zip(tree.parents[1:], tree.ranks[1:], strict=True):
        found.append((*found[parent], rank))
    return found


@pytest.mark.parametrize("nodes", [1, 2, 5, 14])
@pytest.mark.parametrize(("slots", "choices"), [(1, 14), (2, 5), (3, 4), (4, 3)])
def test_the_likeliest_prefixes_are_grown(slots, choices, nodes):
    for seed in range(5):
        scores = random_scores(seed, slots, choices)
        every = {
            path: sum(scores[slot][rank] for slot, rank in enumerate(path))
            for length in range(1, slots + 1)
            for path in itertools.product(range(choices), repeat=length)
        }
        assert most_nodes(slots, choices) == len(every)
        best = sorted(every, key=every.__getitem__, reverse=True)[:nodes]
        tree = grow([row[:nodes] for row in scores], nodes)
        assert paths(tree)[1:] == best
        assert tree.depths == [len(path) for path in paths(tree)]
        assert tree.chances[1:] == pytest.approx([math.exp(every[path]) for path in best])
        assert tree.first(max(1, nodes // 2)) == grow(scores, max(1, nodes // 2))


def test_a_whole_tree_with_impossible_tokens():
    tree = grow([[0.0, -math.inf], [math.log(0.7), math.log(0.3)]], 6)
    assert sorted(paths(tree)[1:]) == [(0,), (0, 0), (0, 1), (1,), (1, 0), (1, 1)]
    assert tree.chances[-3:] == [0.0, 0.0, 0.0]


def test_ancestors_are_the_nodes_on_the_path():
    trees = [grow(random_scores(seed, 4, 5), 20) for seed in range(3)]
    mask = ancestors(torch.tensor([tree.parents for tree in trees]), 4)
    for row, tree in enumerate(trees):
        for node in range(21):
            on_path = {node}
            while node:
                node = tree.parents[node]
                on_path.add(node)
            assert set(mask[row, max(on_path)].nonzero().flatten().tolist()) == on_path


@pytest.mark.parametrize(("vocabulary", "slots", "nodes"), [(2, 3, 5), (3, 2, 4), (4, 3, 3), (3, 3, 5)])
def test_the_walk_emits_the_verifiers_law(vocabulary, slots, nodes):
    """Every outcome of the verifier's draws behind all nodes, followed down a tree of any shape."""
    for seed in range(3):
        world = naive.random_world(seed, vocabulary, slots)
        tree = grow([row[:nodes] for row in random_scores(seed, slots, vocabulary)], nodes)
        source = random.Random(seed)
        order = [source.sample(range(vocabulary), vocabulary) for _ in range(slots)]  # which token has which rank
        texts = [tuple(order[slot][rank] for slot, rank in enumerate(path)) for path in paths(tree)]
        ids, emitted = [-1, *(text[-1] for text in texts[1:])], {}
        for own in itertools.product(range(vocabulary), repeat=nodes + 1):
            probability = math.prod(world.verifier[text][token] for text, token in zip(texts, own, strict=True))
            path, chosen = walk_tree(tree, ids, own)
            run = (*(ids[node] for node in path), chosen)
            emitted[run] = emitted.get(run, 0.0) + probability
        law = naive.stated_joint("match", world)
        for tokens, probability in law.items():
            got = sum(
                share * math.prod(world.verifier[tokens[:slot]][tokens[slot]] for slot in range(len(run), len(tokens)))
                for run, share in emitted.items()
                if tokens[: len(run)] == run
            )
            assert got == pytest.approx(probability, abs=1e-10)
        assert len({len(run) for run in emitted}) > 1


TREE = Tree([0, 0, 1, 0, 2, 1, 3], [0, 1, 2, 1, 3, 2, 2], [0] * 7, [1.0] * 7)


def branch(cache, trees=(TREE,)):
    parents = torch.tensor([tree.parents for tree in trees])
    return cache.branching(torch.tensor([tree.depths for tree in trees]), ancestors(parents, 3))


def path_to(tree, node):
    return [] if node == 0 else [*path_to(tree, tree.parents[node]), node]


@pytest.mark.parametrize("window", [None, 1, 3, 8])
@pytest.mark.parametrize("lengths", [[6], [6, 11, 0]], ids=["one", "ragged"])
def test_each_node_attends_as_at_the_end_of_its_path(lengths, window):
    batch = len(lengths)
    old, new = new_tokens(batch, max(lengths), seed=1), new_tokens(batch, 7, seed=2)

    def filled():
        cache = new_cache(batch)
        cache.write(0, *old[1:])
        cache.set_lengths(lengths)
        return cache

    settings = {"causal": True, "scale": 0.3, "window": window}
    cache = filled()
    with branch(cache, [TREE] * batch):
        assert cache.positions(7).tolist() == [[length + depth for depth in TREE.depths] for length in lengths]
        got = cache.attend(0, *new, **settings)
    assert got.shape[2] == HEADS
    for node in range(7):
        path = [0, *path_to(TREE, node)]
        expected = filled().attend(0, *(part[:, path] for part in new), **settings)[:, -1]
        torch.testing.assert_close(got[:, node], expected, rtol=1e-5, atol=1e-5)
    path = torch.tensor([path_to(TREE, 4), [*path_to(TREE, 6), 3], [1, 2, 3]][:batch])
    cache.keep(path)
    for row, length in enumerate(lengths):
        for slot, node in enumerate([0, *path[row].tolist()]):
            assert torch.equal(cache.keys[0][row, length + slot], new[1][row, node])
            assert torch.equal(cache.values[0][row, length + slot], new[2][row, node])


def test_flash_attention_makes_room_for_trees_and_says_so(caplog, monkeypatch):
    monkeypatch.setattr(caches, "_logged", set())
    cache = new_cache(1)
    cache.kernel = "flash_attn"
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with branch(cache):
            cache.attend(0, *new_tokens(1, 7, seed=1), causal=True, scale=0.3)
    assert [one.getMessage() for one in caplog.records] == [
        "attention kernel of trees: sdpa (flash_attn takes no mask)"
    ]


def decode(family, drafter=None, batch_size=1, **settings):
    """Answers to all prompts; one by one, to three of them."""
    decoder = SpeculativeDecoder(make_verifier(family), drafter or make_memorising(family), **settings)
    return decoder.generate(make_prompts()[: 6 if batch_size > 1 else 3], NEW_TOKENS, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_trees_are_lossless_when_greedy(family, batch_size, monkeypatch):
    if family == "gemma3":  # its logits are all but equal: every tree would be as wide as it could
        monkeypatch.setattr(Law, "scores", lambda self, logits: (40 * logits.float()).log_softmax(-1))
    found = decode(family, batch_size=batch_size, tree_nodes=40)
    assert [one.token_ids for one in found] == make_answers(family)[: len(found)]
    kept = {count for one in found for count in one.accepted}
    assert 3 in kept
    assert len(kept) > 1
    assert {length for one in found for length in one.drafted} == {40}
    assert all(len(one.drafted) == len(one.emitted) == len(one.accepted) for one in found)


@pytest.mark.parametrize("family", ["gemma3"])
def test_random_trees_cost_nothing_but_calls(family):
    found = decode(family, make_drafter(make_verifier(family)), batch_size=3, tree_nodes=9)
    assert [one.token_ids for one in found] == make_answers(family)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_kept_paths_leave_both_caches_as_a_prefill_would(family, monkeypatch):
    verifier, drafter, made = make_verifier(family), make_memorising(family), []
    build = Pair.__init__
    monkeypatch.setattr(Pair, "__init__", lambda self, *arguments: made.append(self) or build(self, *arguments))
    monkeypatch.setattr(Law, "scores", lambda self, logits: (9 * logits.float()).log_softmax(-1))
    prompt = make_prompts()[1]
    (found,) = SpeculativeDecoder(verifier, drafter, tree_nodes=30).generate([prompt], NEW_TOKENS)
    assert sum(found.accepted) > 8
    known = prompt + found.token_ids[:-1]
    fresh = Pair(verifier, made[0].proposer, 1, len(known), 4)
    with torch.inference_mode():
        fresh.prefill([0], known)
    for name in ("cache", "state"):
        got, expected = getattr(made[0], name), getattr(fresh, name)
        for kept, filled in zip([*got.keys, *got.values], [*expected.keys, *expected.values], strict=True):
            torch.testing.assert_close(kept[:, : len(known)], filled[:, : len(known)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama"])
def test_a_tree_keeps_more_than_a_chain_where_second_choices_hit(family):
    drafter = make_drafter(make_verifier(family))
    chain, tree = (decode(family, drafter, 6, **how) for how in ({}, {"tree_nodes": 60}))
    assert tokens_per_cycle(tree) > tokens_per_cycle(chain)


@pytest.mark.parametrize(("dear", "nodes"), [(0.0, 8), (1e9, 0)])
def test_the_number_of_nodes_follows_the_costs(dear, nodes):
    costs = Costs(1.0, [1.0 + dear * width for width in range(9)])
    found = decode("llama", batch_size=3, tree_nodes="auto", costs=costs)
    assert {length for one in found for length in one.drafted} == {nodes}
    assert [one.token_ids for one in found] == make_answers("llama")


def test_a_tree_whose_nodes_pay_differently_varies():
    costs = Costs(1.0, [1.0 + 0.05 * width for width in range(13)])
    found = decode("llama", batch_size=2, tree_nodes="auto", costs=costs)
    assert len({length for one in found for length in one.drafted}) > 3
    assert [one.token_ids for one in found] == make_answers("llama")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tree_nodes": 0}, r"tree_nodes=0: must be >= 1, auto, or none"),
        ({"tree_nodes": "many"}, r"tree_nodes=many: must be >= 1, auto"),
        (
            {"tree_nodes": 289, "draft_length": 1},
            r"tree_nodes=289: a tree of that depth and vocabulary has at most 288",
        ),
        ({"tree_nodes": 4, "draft_length": 0}, r"tree_nodes=4: a tree needs a drafter that proposes at least one"),
        ({"tree_nodes": 4, "draft_length": "auto"}, r"draft_length='auto', tree_nodes=4: choose one"),
        ({"tree_nodes": 4, "rule": "block_verification"}, r"tree_nodes=4: a tree is walked by the verifier's own"),
        ({"tree_nodes": "auto"}, r"tree_nodes='auto': needs costs; measure them by"),
        ({"tree_nodes": "auto", "costs": Costs(1.0, [1.0] * 3)}, r"costs: hold verify passes of 1 to 3 tokens"),
    ],
)
def test_trees_that_cannot_grow_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpeculativeDecoder(make_verifier("llama"), make_memorising("llama"), **wrong)
