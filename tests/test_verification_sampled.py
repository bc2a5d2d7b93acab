"""The rules as they are called emit the enumerated laws: at chosen uniforms exactly, and by counts of 200 000 rows."""

import importlib
import itertools
import random

import pytest
import torch
from scipy.stats import chisquare

from drafter.verification import make_rule
from drafter.verification.base import inverse_cdf
from tests import naive_verification as naive

torch.set_num_threads(1)

ROWS = 200_000
FIXED_UNIFORMS = [name for name in naive.CASES if name not in ("match", "shared_noise")]


def tables(world, laws):
    """One tensor [vocabulary ** slot, ...] per slot, indexed by the drafts before it read as a number."""
    lengths = range(max(len(path) for path in laws) + 1)
    paths = [itertools.product(range(world.vocabulary), repeat=length) for length in lengths]
    return [torch.tensor([laws[path] for path in row], dtype=torch.float64) for row in paths]


def numbers(world, draft_ids):
    """The drafts before each slot read as a number in base vocabulary: [B, G] -> [B, G + 1]."""
    columns = [torch.zeros(len(draft_ids), dtype=torch.long)]
    for slot in range(draft_ids.shape[1]):
        columns.append(columns[-1] * world.vocabulary + draft_ids[:, slot])
    return torch.stack(columns, 1)


def along(laws, prefixes):
    """What the tables say along each row of prefixes [B, N]: [B, N, ...]."""
    return torch.stack([laws[slot][prefixes[:, slot]] for slot in range(prefixes.shape[1])], 1)


def inputs(world, draft_ids, dtype=torch.float64):
    prefixes = numbers(world, draft_ids)
    draft_probs = along(tables(world, world.drafter), prefixes[:, :-1]).to(dtype)
    return draft_probs, along(tables(world, world.verifier), prefixes).to(dtype), prefixes


def keywords(rule, world, prefixes):
    if rule == "dynamic_ensemble":
        return {"verifier_weight": along(tables(world, world.weight), prefixes[:, :-1])}
    return {}


def draw_drafts(world, generator):
    """Drafts sampled from the drafter, and the noise that made them, [B, G] and [B, G + 1]."""
    noise = torch.rand(ROWS, world.slots + 1, generator=generator, dtype=torch.float64)
    laws = tables(world, world.drafter)
    draft_ids = torch.zeros(ROWS, 0, dtype=torch.long)
    for slot in range(world.slots):
        law = laws[slot][numbers(world, draft_ids)[:, -1]]
        draft_ids = torch.cat([draft_ids, inverse_cdf(law, noise[:, slot])[:, None]], 1)
    return draft_ids, noise


def p_value(counts, expected):
    """Chi-square of counts against expectations; cells that expect fewer than 5 are one cell, empty cells must be."""
    assert set(counts) <= {cell for cell, value in expected.items() if value > 1e-6}
    rare = [cell for cell, value in expected.items() if value < 5]
    common = [cell for cell in expected if expected[cell] >= 5]
    seen = [counts.get(cell, 0) for cell in common] + [sum(counts.get(cell, 0) for cell in rare)]
    wanted = [expected[cell] for cell in common] + [sum(expected[cell] for cell in rare)]
    if wanted[-1] < 5:
        seen[-2:], wanted[-2:] = [sum(seen[-2:])], [sum(wanted[-2:])]
    scale = sum(seen) / sum(wanted)
    return chisquare(seen, [value * scale for value in wanted]).pvalue


def cells(rule, draft_ids, length, result):
    """Counts of (drafts, accepted, next token); with shared noise, of what is emitted."""
    shown = torch.arange(draft_ids.shape[1]) < (result.accepted if rule == "shared_noise" else length)[:, None]
    rows = torch.cat([torch.where(shown, draft_ids, -1), length[:, None], result.accepted[:, None]], 1)
    values, counts = torch.cat([rows, result.next_token[:, None]], 1).unique(dim=0, return_counts=True)
    return {tuple(row): count for row, count in zip(values.tolist(), counts.tolist(), strict=True)}


def expected_cells(rule, world, rows_of, **parameters):
    """The same cells with their expectation, rows_of: rows for each number of drafted slots."""
    expected = {}
    for length, rows in rows_of.items():
        if rule == "shared_noise":
            found = naive.emitted(rule, world, length)
            runs = {(run[:-1], len(run) - 1, run[-1]): probability for run, probability in found.items()}
        else:
            runs = {
                (path, *outcome): drawn * probability
                for path, drawn in naive.paths_drawn(world, length).items()
                for outcome, probability in naive.outcomes(rule, world, path, **parameters).items()
            }
        for (path, accepted, token), probability in runs.items():
            expected[*path, *[-1] * (world.slots - len(path)), length, accepted, token] = rows * probability
    return expected


@pytest.mark.parametrize("uneven", [False, True], ids=["all_drafted", "uneven"])
@pytest.mark.parametrize("rule", naive.CASES)
def test_counts_follow_the_enumerated_law(rule, uneven):
    world = naive.random_world(68, 3, 3)  # of 80 seeds, the one where block verification differs most
    generator = torch.Generator().manual_seed(1)
    draft_ids, noise = draw_drafts(world, generator)
    draft_probs, verifier_probs, prefixes = inputs(world, draft_ids, torch.float32)
    more = {"noise": noise} if rule == "shared_noise" else keywords(rule, world, prefixes)
    length = torch.arange(ROWS) % 4 if uneven else torch.full((ROWS,), 3)
    if uneven:
        more["draft_length"] = length
    parameters = naive.CASES[rule]
    result = make_rule(rule, **parameters)(draft_ids, draft_probs, verifier_probs, generator, **more)
    counts = cells(rule, draft_ids, length, result)
    rows_of = {int(value): int((length == value).sum()) for value in length.unique()}
    assert p_value(counts, expected_cells(rule, world, rows_of, **parameters)) > 1e-4


def edges(boundaries):
    """Numbers in [0, 1) on both sides of every boundary."""
    return sorted({min(max(value + side, 0.0), 1 - 1e-9) for value in boundaries for side in (-1e-9, 1e-9)})


def decide(plan, noise):
    """What a plan gives at these uniforms: the acceptances', then the next token's."""
    chances, last, laws = plan
    passes = [u < chance for u, chance in zip(noise, chances, strict=False)]
    if last:
        accepted = max((slot + 1 for slot, passed in enumerate(passes) if passed), default=0)
    else:
        accepted = ([*passes, False]).index(False)
    cumulated = [sum(laws[accepted][: token + 1]) for token in range(len(laws[accepted]))]
    return accepted, next((token for token, value in enumerate(cumulated) if value > noise[-1]), None), cumulated


@pytest.mark.parametrize("rule", FIXED_UNIFORMS)
@pytest.mark.parametrize("seed", range(4))
def test_decisions_turn_at_the_enumerated_uniforms(rule, seed, monkeypatch):
    world = naive.random_world(seed, 3, 3)
    paths, noises, expected = [], [], []
    drawn = list(naive.paths_drawn(world, 3))
    for path in random.Random(seed).sample(drawn, min(6, len(drawn))):
        plan = naive.plan(rule, world, path, **naive.CASES[rule])
        for accepts in itertools.product(*(edges([chance]) for chance in plan[0])):
            _, _, cumulated = decide(plan, [*accepts, 0.5])
            for last in edges([0.0, *cumulated[:-1]]):
                accepted, token, _ = decide(plan, [*accepts, last])
                if token is not None and min(abs(last - value) for value in cumulated) > 1e-10:
                    paths.append(path)
                    noises.append([*accepts, last])
                    expected.append((accepted, token))
    noise = torch.tensor(noises, dtype=torch.float64)
    for module in ("base", "block", "typical"):
        given_noise = lambda shape, *_: noise if len(shape) == 2 else noise[:, -1]  # noqa: E731
        monkeypatch.setattr(importlib.import_module(f"drafter.verification.{module}"), "uniforms", given_noise)
    draft_ids = torch.tensor(paths)
    draft_probs, verifier_probs, prefixes = inputs(world, draft_ids)
    result = make_rule(rule, **naive.CASES[rule])(
        draft_ids, draft_probs, verifier_probs, torch.Generator(), **keywords(rule, world, prefixes)
    )
    assert torch.stack([result.accepted, result.next_token], 1).tolist() == [list(pair) for pair in expected]


def test_kept_noise_reproduces_inverse_cdf_sampling_with_any_drafter():
    vocabulary, slots, total = 5, 3, 40
    generator = torch.Generator().manual_seed(3)
    laws = torch.rand(vocabulary, vocabulary, generator=generator, dtype=torch.float64).softmax(-1)
    noise = torch.rand(total + slots, generator=generator, dtype=torch.float64)
    plain = [0]
    for position in range(total):
        plain.append(inverse_cdf(laws[plain[-1]], noise[position]).item())
    emitted, cycles = [0], 0
    while len(emitted) <= total:
        here = noise[len(emitted) - 1 :][: slots + 1]
        drafts = inverse_cdf(laws[emitted[-1]].expand(slots, -1), here[1:] if cycles % 2 else here[:-1])  # sees ahead
        probs = laws[torch.tensor([emitted[-1], *drafts])]
        result = make_rule("shared_noise")(drafts[None], None, probs[None], None, noise=here[None])
        emitted += [*drafts[: result.accepted.item()].tolist(), result.next_token.item()]
        cycles += 1
    assert emitted[: total + 1] == plain
    assert cycles < total
