"""The flash-attn path: all around the kernel on a stand-in with its contract; the kernel itself where it runs."""

from functools import partial

import pytest
import torch
from flash_stand_in import flash_attn_with_kvcache
from test_attention import CAPACITY, GARBAGE, KV_HEADS, WIDTH, naive_attend, new_tokens

from drafter.attention import KVCache, LayerShape, choose_kernel, flash
from drafter.decode import SpeculativeDecoder, tokens_per_cycle

FLOAT32 = partial(flash_attn_with_kvcache, dtypes=(torch.float32,))
KINDS = [(causal, window) for causal in (True, False) for window in (None, 1, 5)]


@pytest.fixture
def stand_in(monkeypatch):
    """Calls of the kernel in float32, which the real one refuses."""
    calls = []

    def kernel(*tensors, **settings):
        calls.append({**settings, "cache_seqlens": settings["cache_seqlens"].clone()})
        return FLOAT32(*tensors, **settings)

    monkeypatch.setattr(flash, "kernel", lambda: kernel)
    return calls


def filled(kernel, lengths, dtype=torch.float32, device="cpu"):
    """A cache with random tokens up to `lengths` and garbage behind them."""
    cache = KVCache([LayerShape(KV_HEADS, WIDTH, WIDTH)], len(lengths), CAPACITY, dtype, torch.device(device), kernel)
    for stored in (*cache.keys, *cache.values):
        stored.fill_(GARBAGE)
    _, keys, values = new_tokens(len(lengths), max(lengths), seed=1)
    cache.write(0, keys.to(cache.keys[0]), values.to(cache.keys[0]))
    cache.set_lengths(lengths)
    return cache


@pytest.mark.parametrize(("causal", "window"), KINDS, ids=str)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("lengths", [[6], [6, 11, 0]], ids=["one", "ragged"])
def test_the_stand_in_keeps_the_contract(lengths, count, causal, window):
    """Against one query at a time in float64, which knows nothing of flash-attn."""
    cache = filled("sdpa", lengths)
    before = cache.keys[0].clone(), cache.values[0].clone()
    query, key, value = new_tokens(len(lengths), count, seed=2)
    sides = (-1, -1) if window is None else (window - 1, 0 if causal else -1)
    seen = torch.tensor(lengths, dtype=torch.int32)
    got = FLOAT32(query, cache.keys[0], cache.values[0], key, value, seen, 0.3, causal, sides)
    for row, length in enumerate(lengths):
        keys, values = (
            torch.cat([before[0][row, :length], key[row]]),
            torch.cat([before[1][row, :length], value[row]]),
        )
        torch.testing.assert_close(
            got[row].double(), naive_attend(query[row], keys, values, length, causal, window), rtol=1e-5, atol=1e-5
        )
        assert torch.equal(cache.keys[0][row, length : length + count], key[row])
        assert torch.equal(cache.values[0][row, length : length + count], value[row])
        assert (cache.keys[0][row, max(max(lengths), length + count) :] == GARBAGE).all()


@pytest.mark.parametrize(("causal", "window"), KINDS, ids=str)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("lengths", [[6], [6, 11, 0]], ids=["one", "ragged"])
def test_flash_and_sdpa_agree(stand_in, lengths, count, causal, window):
    query, key, value = new_tokens(len(lengths), count, seed=2)
    caches = [filled(kernel, lengths) for kernel in ("flash_attn", "sdpa")]
    for _ in range(2):  # a rejected write, then the same slots again
        got, expected = (
            cache.attend(0, query, key, value, causal=causal, scale=0.3, window=window) for cache in caches
        )
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        query = query.flip(1)
    assert torch.equal(caches[0].keys[0], caches[1].keys[0])
    assert torch.equal(caches[0].values[0], caches[1].values[0])
    assert len(stand_in) == 2


def test_a_row_is_filled_alone(stand_in):
    caches = [filled(kernel, [6, 2, 9]) for kernel in ("flash_attn", "sdpa")]
    query, key, value = new_tokens(1, 5, seed=3)
    got, expected = (cache.row(1).attend(0, query, key, value, causal=True, scale=0.3) for cache in caches)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(caches[0].keys[0], caches[1].keys[0])
    assert torch.equal(caches[0].keys[0][1, :5], key[0])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_whole_decoder_runs_on_it(verifier, memorising, answers, prompts, batch_size, stand_in, monkeypatch):
    """Grouped heads, windows (Gemma), prefill, ragged rows that are replaced, drafts both ways."""
    monkeypatch.setattr(verifier, "kernel", "flash_attn")
    short = [4 if len(prompt) > 40 else 12 for prompt in prompts[:4]]
    for prompt, answer, limit in zip(prompts[:4], answers, short, strict=False):
        found = SpeculativeDecoder(verifier, memorising).generate([prompt] * batch_size, limit, batch_size=batch_size)
        assert [one.token_ids for one in found] == [answer[:limit]] * batch_size
    assert {call["causal"] for call in stand_in} == {True, False}  # verify and draft
    assert all(call["cache_seqlens"].dtype == torch.int32 for call in stand_in)


@pytest.mark.parametrize("family", ["llama"])
def test_ragged_rows_advance_by_different_amounts(verifier, memorising, answers, prompts, stand_in, monkeypatch):
    monkeypatch.setattr(verifier, "kernel", "flash_attn")
    found = SpeculativeDecoder(verifier, memorising).generate(prompts[:3], 10, batch_size=2)
    assert [one.token_ids for one in found] == [answer[:10] for answer in answers[:3]]
    assert tokens_per_cycle(found) > 1.5
    lengths = [tuple(call["cache_seqlens"].tolist()) for call in stand_in if len(call["cache_seqlens"]) == 2]
    assert len({one[0] - one[1] for one in lengths}) > 2


def test_what_the_kernel_refuses_the_stand_in_refuses():
    query, key, value = new_tokens(1, 2, seed=2)
    cache = filled("sdpa", [CAPACITY - 1])
    call = partial(FLOAT32, query, cache.keys[0], cache.values[0], key, value, softmax_scale=1.0)
    with pytest.raises(RuntimeError, match="no room"):
        call(cache_seqlens=torch.tensor([CAPACITY - 1], dtype=torch.int32))
    with pytest.raises(RuntimeError, match="cache_seqlens"):
        call(cache_seqlens=torch.tensor([3]))
    with pytest.raises(RuntimeError, match="dtype"):
        flash_attn_with_kvcache(query, cache.keys[0], cache.values[0], key, value, torch.tensor([3], dtype=torch.int32))


def test_auto_takes_flash_where_it_runs(monkeypatch):
    monkeypatch.setattr(flash, "missing", lambda: None)
    cuda = torch.device("cuda")
    assert choose_kernel("auto", cuda, torch.bfloat16) == "flash_attn"
    assert choose_kernel("auto", cuda, torch.float32) == "sdpa"
    monkeypatch.setattr(flash, "missing", lambda: "is not here")
    assert choose_kernel("auto", cuda, torch.bfloat16) == "sdpa"
    with pytest.raises(ValueError, match="attention='flash_attn': is not here; use attention=sdpa"):
        choose_kernel("flash_attn", cuda, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize(("causal", "window"), KINDS, ids=str)
@pytest.mark.parametrize("lengths", [[6], [6, 11, 0]], ids=["one", "ragged"])
def test_the_kernel_keeps_the_contract_on_a_gpu(lengths, causal, window):
    """The real kernel in bfloat16 against SDPA on the same cache, and against the stand-in."""
    if flash.missing():
        pytest.skip(flash.missing())
    query, key, value = (one.to("cuda", torch.bfloat16) for one in new_tokens(len(lengths), 4, seed=2))
    caches = [filled(kernel, lengths, torch.bfloat16, "cuda") for kernel in ("flash_attn", "sdpa")]
    got, expected = (cache.attend(0, query, key, value, causal=causal, scale=0.3, window=window) for cache in caches)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    assert torch.equal(caches[0].keys[0], caches[1].keys[0])
    cpu = filled("sdpa", lengths, torch.bfloat16)
    sides = (-1, -1) if window is None else (window - 1, 0 if causal else -1)
    seen = torch.tensor(lengths, dtype=torch.int32)
    told = flash_attn_with_kvcache(
        query.cpu(), cpu.keys[0], cpu.values[0], key.cpu(), value.cpu(), seen, 0.3, causal, sides
    )
    torch.testing.assert_close(got.cpu(), told, rtol=2e-2, atol=2e-2)
