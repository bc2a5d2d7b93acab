"""Attention over a cache, against one query at a time in float64."""

import math

import pytest
import torch

from drafter.attention import KVCache, LayerShape, choose_kernel, plain, sdpa

HEADS, KV_HEADS, WIDTH, CAPACITY = 4, 2, 8, 24
GARBAGE = 1e3


def new_cache(batch):
    cache = KVCache([LayerShape(KV_HEADS, WIDTH, WIDTH)] * 2, batch, CAPACITY, torch.float32, torch.device("cpu"))
    for stored in (*cache.keys, *cache.values):
        stored.fill_(GARBAGE)  # what is not committed must not matter
    return cache


def new_tokens(batch, count, seed):
    """Query, key and value of `count` tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, count, heads, WIDTH, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)]


def naive_attend(query, keys, values, first, causal, window):
    """query [Q, H, D] stands at slots first.. of keys and values [S, Hk, D]."""
    out = torch.empty_like(query, dtype=torch.float64)
    for i in range(len(query)):
        at = first + i
        last = at if causal else first + len(query) - 1
        seen = [slot for slot in range(last + 1) if window is None or slot > at - window]
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            scores = keys[seen, group].double() @ query[i, head].double() * 0.3
            out[i, head] = scores.softmax(0) @ values[seen, group].double()
    return out


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("lengths", [[6], [6, 11, 0]], ids=["one", "ragged"])
def test_attend_matches_one_query_at_a_time(lengths, count, causal, window):
    cache = new_cache(len(lengths))
    _, old_keys, old_values = new_tokens(len(lengths), max(lengths), seed=1)
    query, key, value = new_tokens(len(lengths), count, seed=2)
    cache.write(1, old_keys, old_values)
    cache.set_lengths(lengths)
    got = cache.attend(1, query, key, value, causal=causal, scale=0.3, window=window)
    for row, length in enumerate(lengths):
        keys, values = torch.cat([old_keys[row, :length], key[row]]), torch.cat([old_values[row, :length], value[row]])
        expected = naive_attend(query[row], keys, values, length, causal, window)
        torch.testing.assert_close(got[row].double(), expected, rtol=1e-5, atol=1e-5)


def test_rejecting_is_not_advancing():
    cache = new_cache(2)
    for seed in (1, 2):  # the second write of three tokens lands where the first was rejected after one
        query, key, value = new_tokens(2, 3, seed)
        got = cache.attend(0, query, key, value, causal=True, scale=0.3)
        if seed == 1:
            kept = key[:, :1], value[:, :1]
            cache.set_lengths([1, 1])
    for row in range(2):
        keys, values = torch.cat([kept[0][row], key[row]]), torch.cat([kept[1][row], value[row]])
        expected = naive_attend(query[row], keys, values, 1, True, None)
        torch.testing.assert_close(got[row].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_row_is_filled_alone():
    cache = new_cache(3)
    _, key, value = new_tokens(1, 5, seed=3)
    row = cache.row(1)
    row.write(0, key, value)
    assert torch.equal(cache.keys[0][1, :5], key[0])
    assert torch.equal(cache.values[0][1, :5], value[0])
    untouched = torch.ones_like(cache.keys[0], dtype=torch.bool)
    untouched[1, :5] = False
    for first, second in (cache.keys, cache.values):
        assert (first[untouched] == GARBAGE).all()
        assert (second == GARBAGE).all()
    assert cache.lengths.tolist() == [0, 0, 0]


def test_a_full_cache_says_so():
    cache = new_cache(2)
    cache.set_lengths([CAPACITY, 3])
    with pytest.raises(ValueError, match=f"cache capacity={CAPACITY}"):
        cache.set_lengths([3, CAPACITY + 1])


def test_kernels_are_chosen_or_refused_by_name():
    cpu = torch.device("cpu")
    assert choose_kernel("auto", cpu, torch.float32) == "sdpa"
    assert choose_kernel("sdpa", cpu, torch.bfloat16) == "sdpa"
    with pytest.raises(ValueError, match="attention='flash_attn': needs a CUDA device; use attention=sdpa"):
        choose_kernel("flash_attn", cpu, torch.bfloat16)
    with pytest.raises(ValueError, match="attention='flash': choose auto, sdpa, flash_attn or flash_cpu"):
        choose_kernel("flash", cpu, torch.float32)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 0.0])], ids=["no sinks", "sinks"])
@pytest.mark.parametrize("count", [1, 4])
def test_soft_caps_and_sinks_match_one_query_at_a_time(count, sinks, softcap, window):
    lengths = [6, 11, 0]
    cache = new_cache(3)
    _, old_keys, old_values = new_tokens(3, max(lengths), seed=1)
    query, key, value = new_tokens(3, count, seed=2)
    cache.write(1, old_keys, old_values)
    cache.set_lengths(lengths)
    settings = {"window": window, "softcap": softcap, "sinks": sinks}
    got = cache.attend(1, query, key, value, causal=True, scale=0.3, **settings)
    for row, length in enumerate(lengths):
        keys, values = torch.cat([old_keys[row, :length], key[row]]), torch.cat([old_values[row, :length], value[row]])
        for i in range(count):
            seen = [slot for slot in range(length + i + 1) if window is None or slot > length + i - window]
            for head in range(HEADS):
                scores = [float(keys[slot, head // 2].double() @ query[row, i, head].double()) * 0.3 for slot in seen]
                if softcap:
                    scores = [softcap * math.tanh(score / softcap) for score in scores]
                weights = torch.tensor(scores, dtype=torch.float64).exp()
                weights /= weights.sum() + (0 if sinks is None else math.exp(sinks[head]))
                expected = weights @ values[seen, head // 2].double()
                torch.testing.assert_close(got[row, i, head].double(), expected, rtol=1e-5, atol=1e-5)


def test_long_queries_are_taken_in_passes(monkeypatch):
    query, key, value = new_tokens(2, 9, seed=2)
    mask = sdpa.visible(torch.zeros(1, dtype=torch.long), 9, 9, causal=True, window=3)
    whole = plain.attend(query, key, value, mask, 0.3, 0.7)
    monkeypatch.setattr(plain, "QUERIES_PER_PASS", 4)
    torch.testing.assert_close(plain.attend(query, key, value, mask, 0.3, 0.7), whole)


def test_layers_may_keep_tokens_of_other_sizes():
    shapes = [LayerShape(1, 8, 4), LayerShape(KV_HEADS, WIDTH, WIDTH), LayerShape(1, 8, 4)]
    cache = KVCache(shapes, 2, CAPACITY, torch.float32, torch.device("cpu"))
    new = [(torch.randn(2, 3, s.heads, s.key), torch.randn(2, 3, s.heads, s.value)) for s in shapes]
    for layer, (key, value) in enumerate(new):
        cache.write(layer, key, value)
    cache.copy_row(1, [0], 3)
    for layer, (key, value) in enumerate(new):
        assert torch.equal(cache.keys[layer][0, :3], key[1])
        assert torch.equal(cache.row(1).values[layer][0, :3], value[1])
