"""What lies on disk: files of bounded size, whole after a kill, checked when opened, never more than was agreed to."""

import hashlib
import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
from conftest import make_verifier

from drafter.config import CacheConfig
from drafter.data.rows import Row
from drafter.taps import TapCache
from drafter.taps.codec import Codec
from drafter.verifier import Verifier

LAYERS = [1, 3]


def make_rows(count=150):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 120, (count,), generator=generator).tolist()
    return [Row(torch.randint(3, 259, (n,), generator=generator).tolist(), ((2, n),)) for n in lengths]


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr("drafter.taps.cache.SMALLEST_FILE", 1 << 20)


def make(folder, **settings):
    return TapCache(make_verifier("llama"), make_rows(), LAYERS, folder, **settings)


def contents(folder):
    """Checksums of what a cache's folder holds, by name; of its files' times, that they are noted."""
    (inner,) = folder.iterdir()
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in inner.iterdir()}
    return found | {"checked.json": sorted(json.loads((inner / "checked.json").read_text()))}


@pytest.fixture
def whole(tmp_path, small_files):
    make(tmp_path / "whole")
    return contents(tmp_path / "whole")


def test_files_are_bounded_and_named_in_the_manifest(whole, tmp_path):
    (inner,) = (tmp_path / "whole").iterdir()
    manifest = json.loads((inner / "manifest.json").read_text())
    assert manifest["tap_layers"] == LAYERS
    assert manifest["verifier"] == make_verifier("llama").fingerprint()
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: digest for name, digest in whole.items() if name.endswith(".bin")
    }
    sizes = [entry["bytes"] for entry in manifest["files"].values()]
    assert len(sizes) > 3
    assert max(sizes) < (1 << 20) + 1024 * 2 * 64 * 4  # the bound, and a pass over it
    parts = [part for entry in manifest["files"].values() for part in entry["parts"]]
    assert sorted(parts) == list(range(len(parts)))


def kill_when(folder, files):
    """Fill a cache in a process of its own, and kill it (-9) once it has finished some files."""
    slowly = {"on_progress": lambda done, total: time.sleep(0.02)}
    process = multiprocessing.get_context("fork").Process(target=make, args=(folder,), kwargs=slowly)
    process.start()
    while len(list(folder.glob("*/*.bin"))) < files and process.is_alive():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_process_goes_on_and_leaves_the_same_bytes(whole, tmp_path, monkeypatch):
    kill_when(tmp_path / "killed", files=2)
    left = contents(tmp_path / "killed")
    assert 2 <= sum(name.endswith(".bin") for name in left) < sum(name.endswith(".bin") for name in whole)
    passes, taps = [], Verifier.taps
    monkeypatch.setattr(Verifier, "taps", lambda self, ids, layers: passes.append(1) or taps(self, ids, layers))
    cache = make(tmp_path / "killed")
    assert 0 < len(passes) < len(cache.passes)
    assert contents(tmp_path / "killed") == whole


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no manifest"])
def test_damage_is_named_and_mended(whole, tmp_path, caplog, damage):
    (inner,) = (tmp_path / "whole").iterdir()
    path = sorted(inner.glob("*.bin"))[1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1000])
    elif damage == "flipped":
        content[1234] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        (inner / "manifest.json").unlink()
    cache = make(tmp_path / "whole")
    assert contents(tmp_path / "whole") == whole
    said = {"cut": " bytes in place of ", "flipped": "its checksum differs", "missing": "missing"}
    if damage in said:
        assert str(path) in caplog.text
        assert said[damage] in caplog.text
    online = make_verifier("llama").taps(torch.tensor([make_rows()[0].ids]), LAYERS)[0]
    torch.testing.assert_close(cache[0], online, rtol=1e-4, atol=1e-4)


def test_more_than_agreed_is_refused_with_its_size_before_anything_is_written(tmp_path):
    rows = make_rows()
    tokens = sum(len(row.ids) for row in rows)
    size = f"{tokens * 2 * 64 * 4 / 1e9:.3g} GB"
    with pytest.raises(ValueError, match=rf"data\.cache\.max_gb=0\.001: taps of 150 rows take {size} in .*; continue "):
        make(tmp_path, settings=CacheConfig(max_gb=0.001))
    with pytest.raises(ValueError, match=rf"data\.cache\.dtype=int8 \({tokens * 2 * 68 / 1e9:.3g} GB\)"):
        make(tmp_path, settings=CacheConfig(max_gb=0.001))
    assert list(tmp_path.iterdir()) == []
    make(tmp_path, settings=CacheConfig(max_gb=0.001, confirm=True))
    make(tmp_path, settings=CacheConfig(max_gb=0.001))  # it is there: nothing more is taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_int8_is_at_most_half_a_step_off(tmp_path, dtype):
    verifier = Verifier(make_verifier("llama").model.__class__(make_verifier("llama").model.config).to(dtype))
    rows = make_rows(20)
    exact = TapCache(verifier, rows, LAYERS, tmp_path, final=True)
    small = TapCache(verifier, rows, LAYERS, tmp_path, final=True, settings=CacheConfig(dtype="int8"))
    assert small.bytes == exact.bytes // dtype.itemsize * (1 + 4 / 64)
    error = power = worst = 0.0
    for index in range(20):
        true, found = (cache[index].double().view(-1, 3, 64) for cache in (exact, small))
        rounding = 2**-8 * true.abs() if dtype is torch.bfloat16 else 1e-6 * true.abs()
        assert ((found - true).abs() <= true.abs().amax(-1, keepdim=True) / 254 + rounding).all()
        assert small[index].dtype == dtype
        error += (found - true).square().sum()
        power += true.square().sum()
        worst = max(worst, ((found - true).norm(dim=-1) / true.norm(dim=-1)).max())
    assert small.shards.distortion.relative == pytest.approx(float(error / power) ** 0.5, rel=1e-3)
    assert small.shards.distortion.worst == pytest.approx(float(worst), rel=1e-3)
    assert 0.001 < small.shards.distortion.relative < 0.02
    assert exact.shards.distortion.relative == 0
    again = TapCache(verifier, rows, LAYERS, tmp_path, final=True, settings=CacheConfig(dtype="int8"))
    assert again.shards.distortion == small.shards.distortion


def test_zeros_stay_zeros(tmp_path):
    taps = torch.zeros(3, 128)
    taps[1, 64:] = torch.randn(64)
    codec = Codec("int8", 2, 64, torch.float32)
    found = codec.decode(codec.encode(taps))
    assert (found[0] == 0).all()
    assert (found[1, :64] == 0).all()
    assert found[1, 64:].abs().max() == pytest.approx(taps[1, 64:].abs().max())


def test_a_bfloat16_verifier_may_be_kept_in_float32_and_a_float32_one_in_bfloat16(tmp_path):
    rows = make_rows(5)
    exact = TapCache(make_verifier("llama"), rows, LAYERS, tmp_path)
    rounded = TapCache(make_verifier("llama"), rows, LAYERS, tmp_path, settings=CacheConfig(dtype="bfloat16"))
    assert all(rounded[index].equal(exact[index].bfloat16().float()) for index in range(5))
    assert 0 < rounded.shards.distortion.relative < 2**-8


def test_passes_are_made_when_first_asked_for_and_kept(tmp_path, monkeypatch):
    rows = make_rows(12)
    groups = [[3, 1, 7], [0, 2, 4], [5, 6, 8], [9, 10, 11]]
    verifier, passes, taps = make_verifier("llama"), [], Verifier.taps
    monkeypatch.setattr(Verifier, "taps", lambda self, ids, layers: passes.append(ids) or taps(self, ids, layers))
    lazy = TapCache(verifier, rows, LAYERS, tmp_path, passes=groups)
    assert passes == []
    first = lazy.padded([0, 2, 4])
    assert len(passes) == 1
    online = taps(verifier, passes[0], LAYERS)  # what the step itself would have made
    assert all(
        torch.equal(first[row, :n], online[row, :n]) for row, n in enumerate(len(rows[i].ids) for i in (0, 2, 4))
    )
    lazy.padded([3, 4])
    lazy.padded([1, 7])
    assert len(passes) == 2
    assert list(lazy.folder.glob("*.bin")) == []  # no file, nor a whole manifest, for each
    lazy.close()
    assert len(list(lazy.folder.glob("*.bin"))) == 1
    again = TapCache(verifier, rows, LAYERS, tmp_path, passes=groups)
    assert torch.equal(again.padded([0, 2, 4]), first)
    again.padded([11])
    assert len(passes) == 3
    other = TapCache(verifier, rows, LAYERS, tmp_path, passes=groups[::-1])
    assert other.folder != lazy.folder
