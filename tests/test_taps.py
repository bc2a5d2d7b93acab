"""The cache of taps: what it holds, what it reads, and what a kill leaves."""

import copy
import shutil
from collections import namedtuple

import pytest
import torch
from conftest import make_verifier

from drafter.data.rows import Row, pad
from drafter.taps import TapCache
from drafter.verifier import Verifier, tiny

LAYERS = [1, 3]


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 120, (150,), generator=generator).tolist()
    return [Row(torch.randint(3, 259, (n,), generator=generator).tolist(), ((2, n),)) for n in lengths]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_cached_taps_equal_online_ones(rows, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("drafter.taps.cache.TOKENS_PER_PASS", 1)  # a row at a time, as below
    verifier = Verifier(tiny.build("llama")[0].to(dtype))
    cache = TapCache(verifier, rows[:30], LAYERS, tmp_path)
    for index in range(30):
        assert cache[index].dtype == dtype
        assert torch.equal(cache[index], verifier.taps(torch.tensor([rows[index].ids]), LAYERS)[0])


def test_passes_are_bounded(rows, tmp_path, monkeypatch):
    sizes = []
    taps = Verifier.taps
    monkeypatch.setattr(
        Verifier, "taps", lambda self, ids, layers: sizes.append(ids.numel()) or taps(self, ids, layers)
    )
    TapCache(make_verifier("llama"), rows, LAYERS, tmp_path)
    assert max(sizes) <= 1024
    assert len(sizes) < 20


def test_padded_is_rows_side_by_side(rows, tmp_path):
    cache = TapCache(make_verifier("llama"), rows, LAYERS, tmp_path)
    batch = cache.padded([3, 8])
    assert batch.shape == (2, max(len(rows[3].ids), len(rows[8].ids)), 128)
    for place, index in enumerate((3, 8)):
        length = len(rows[index].ids)
        assert torch.equal(batch[place, :length], cache[index])
        assert (batch[place, length:] == 0).all()


def test_a_second_use_only_reads(rows, tmp_path, monkeypatch):
    verifier = make_verifier("llama")
    first = TapCache(verifier, rows, LAYERS, tmp_path)
    monkeypatch.setattr(Verifier, "taps", None)  # calling it would raise
    told = []
    second = TapCache(verifier, rows, LAYERS, tmp_path, lambda done, total: told.append(done))
    assert all(torch.equal(first[index], second[index]) for index in range(len(rows)))
    assert told == []


def test_whatever_changes_the_taps_has_its_own_folder(rows, tmp_path):
    other_model = Verifier(copy.deepcopy(make_verifier("llama").model))
    with torch.no_grad():
        next(other_model.layers[0].parameters())[0, 0] += 1.0
    TapCache(make_verifier("llama"), rows[:9], LAYERS, tmp_path)
    TapCache(make_verifier("llama"), rows[:8], LAYERS, tmp_path)
    TapCache(make_verifier("llama"), rows[:9], [1, 2], tmp_path)
    TapCache(Verifier(tiny.build("llama")[0].bfloat16()), rows[:9], LAYERS, tmp_path)
    TapCache(other_model, rows[:9], LAYERS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_disk_without_room_is_said_before_anything_is_written(rows, tmp_path, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(ValueError, match=r"data\.taps='cached': needs .* GB .* are free; set BLOCK_DRAFTER_CACHE"):
        TapCache(make_verifier("llama"), rows, LAYERS, tmp_path / "full")
    assert not (tmp_path / "full").exists()


def test_padding_has_no_say(rows, tmp_path, monkeypatch):
    """Rows padded into one pass have the taps that they have alone."""
    verifier = make_verifier("qwen3")
    together = TapCache(verifier, rows[:20], LAYERS, tmp_path / "together")
    monkeypatch.setattr("drafter.taps.cache.TOKENS_PER_PASS", 1)
    alone = TapCache(verifier, rows[:20], LAYERS, tmp_path / "alone")
    assert pad(rows[:20]).ids.shape[1] > len(rows[0].ids)
    for index in range(20):
        torch.testing.assert_close(together[index], alone[index], rtol=1e-4, atol=1e-4)
