"""Our kernels in C: attention against float64 and across batches, what stands between products, their building."""

import logging
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from drafter import kernels
from drafter.attention import KVCache, LayerShape, choose_kernel, flash_cpu
from drafter.files import cache_directory
from drafter.kernels import build, functions
from drafter.machine.tiling import TiledNorm, in_tiles
from drafter.verifier import Verifier, between, tiny
from drafter.verifier.between import Between, CompiledBetween, choose_between

CPU = torch.device("cpu")
ROUNDING = 2.0**-8  # of bfloat16, relatively
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compilers elsewhere need not know OpenMP")


def new_cache(batch, capacity, heads, width):
    """What is not committed is NaN, and must not matter."""
    cache = KVCache([LayerShape(heads, width, width)] * 2, batch, capacity, torch.bfloat16, CPU, "flash_cpu")
    for stored in (*cache.keys, *cache.values):
        stored.fill_(torch.nan)
    return cache


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def naive_attend(query, keys, values, seen, scale):
    """query [Q, H, D] over keys and values [S, Hk, D], by one softmax over the slots that each query sees."""
    group = query.shape[1] // keys.shape[1]
    scores = torch.einsum("qhd,shd->qhs", query.double(), keys.double().repeat_interleave(group, 1)) * scale
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return torch.einsum("qhs,shd->qhd", weights, values.double().repeat_interleave(group, 1))


def seen_by(length, depths, follows, causal, window):
    """bool [Q, S], new tokens behind `length` committed ones; `follows` bool [Q, Q] or None for a chain."""
    count = len(depths)
    places = torch.cat([torch.arange(length), length + depths])  # of keys
    own = (length + depths)[:, None]
    new = torch.ones(count, count, dtype=torch.bool)
    new = follows if follows is not None else new.tril() if causal else new
    seen = torch.cat([torch.ones(count, length, dtype=torch.bool), new], dim=1)
    return seen if window is None else seen & (places > own - window)


def random_tree(count, generator):
    """Depths [Q] and ancestors [Q, Q] of tokens that follow one of those before."""
    depths, follows = torch.zeros(count, dtype=torch.long), torch.eye(count, dtype=torch.bool)
    for token in range(1, count):
        parent = int(torch.randint(token, (), generator=generator))
        depths[token] = depths[parent] + 1
        follows[token] |= follows[parent]
    return depths, follows


@st.composite
def cases(draw):
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    width = 2 * draw(st.sampled_from([1, 3, 8, 16, 20, 32, 64, 128]))
    lengths = draw(st.lists(st.integers(0, 300), min_size=1, max_size=4))
    window = draw(st.none() | st.integers(1, 200))
    kind = draw(st.sampled_from(["causal", "bidirectional", "tree"]))
    count, seed = draw(st.integers(1, 9)), draw(st.integers(0, 9999))
    return kv_heads, group, width, lengths, count, window, kind, draw(st.sampled_from(sorted(LAYOUTS))), seed


def side_by_side(query, key, value):
    """As one product makes them."""
    sizes = [one.shape[2] for one in (query, key, value)]
    return torch.cat([query, key, value], dim=2).split(sizes, dim=2)


def head_by_head(*tensors):
    """As transformers hands them on."""
    return [one.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2) for one in tensors]


LAYOUTS = {"packed": lambda *tensors: tensors, "side by side": side_by_side, "head by head": head_by_head}


@given(case=cases())
@example(case=(2, 2, 16, [5, 3], 1, None, "causal", "head by head", 0))  # tokens that stride as heads
@settings(max_examples=50, deadline=None)
def test_attention_is_that_of_one_softmax(case):
    kv_heads, group, width, lengths, count, window, kind, layout, seed = case
    batch, scale = len(lengths), width**-0.5
    cache = new_cache(batch, max(lengths) + count, kv_heads, width)
    old = normal(2, batch, max(lengths), kv_heads, width, seed=seed)
    for row, length in enumerate(lengths):
        cache.keys[1][row, :length], cache.values[1][row, :length] = old[:, row, :length]
    cache.set_lengths(lengths)
    query = normal(batch, count, kv_heads * group, width, seed=seed + 1)
    key, value = normal(2, batch, count, kv_heads, width, seed=seed + 2)
    new = LAYOUTS[layout](query, key, value)
    generator = torch.Generator().manual_seed(seed)
    trees = [random_tree(count, generator) for _ in lengths]
    chain = torch.arange(count)
    if kind == "tree":
        stacked = [torch.stack(parts) for parts in zip(*trees, strict=True)]
        with cache.branching(*stacked):
            found = cache.attend(1, *new, causal=True, scale=scale, window=window)
    else:
        found = cache.attend(1, *new, causal=kind == "causal", scale=scale, window=window)
    for row, length in enumerate(lengths):
        keys, values = (torch.cat([kept[row, :length], new[row]]) for kept, new in zip(old, (key, value), strict=True))
        depths, follows = trees[row] if kind == "tree" else (chain, None)
        seen = seen_by(length, depths, follows, kind == "causal", window)
        expected = naive_attend(query[row], keys, values, seen, scale)
        torch.testing.assert_close(found[row].double(), expected, rtol=ROUNDING, atol=1e-5)
        assert torch.equal(cache.keys[1][row, length : length + count], key[row])
        assert torch.equal(cache.values[1][row, length : length + count], value[row])
        assert cache.keys[1][row, length + count :].isnan().all()
    assert cache.keys[0].isnan().all()


def test_an_output_has_the_same_bits_whatever_else_is_attended():
    """In another batch, beside fewer queries, on more threads."""
    lengths, count, heads, kv_heads, width = [290, 3, 127], 7, 6, 2, 40
    old = normal(2, 3, 300, kv_heads, width, seed=0)
    query, (key, value) = normal(3, count, heads, width, seed=1), normal(2, 3, count, kv_heads, width, seed=2)

    def attend(rows, new):
        cache = new_cache(len(rows), 300, kv_heads, width)
        cache.keys[0].copy_(old[0, rows])
        cache.values[0].copy_(old[1, rows])
        cache.set_lengths([lengths[row] for row in rows])
        parts = (one[rows, :new] for one in (query, key, value))
        return cache.attend(0, *parts, causal=True, scale=0.2, window=None)

    whole = attend([0, 1, 2], count)
    for row in range(3):
        for new in (1, 4, count):
            assert torch.equal(attend([row], new)[0], whole[row, :new])
    torch.set_num_threads(2)
    try:
        assert torch.equal(attend([0, 1, 2], count), whole)
    finally:
        torch.set_num_threads(1)


def test_numbers_that_are_none_stay_so():
    cache = new_cache(1, 8, 1, 8)
    query, key, value = (torch.full((1, 2, 1, 8), torch.nan).bfloat16() for _ in range(3))
    assert cache.attend(0, query, key, value, causal=True, scale=1.0).isnan().all()
    assert kernels.gate(torch.full((1, 8), torch.nan).bfloat16()).isnan().all()


def test_the_cache_takes_the_kernel_where_it_fits(monkeypatch):
    """Many new tokens, heads of two sizes and odd ones go to torch."""
    taken = []
    monkeypatch.setattr(flash_cpu, "attend", lambda query, *_: taken.append(query.shape[1]) or query)

    def attend(count, key=8, value=8, dtype=torch.bfloat16):
        cache = KVCache([LayerShape(1, key, value)], 1, 100, dtype, CPU, "flash_cpu")
        new = (torch.zeros(1, count, heads, size, dtype=dtype) for heads, size in ((2, key), (1, key), (1, value)))
        cache.attend(0, *new, causal=True, scale=1.0)

    attend(1)
    attend(flash_cpu.FEW)
    assert taken == [1, flash_cpu.FEW]
    attend(flash_cpu.FEW + 1)
    attend(2, key=16)
    attend(2, key=7, value=7)
    attend(2, key=258, value=258)
    attend(2, dtype=torch.float32)
    assert len(taken) == 2


ROWS, WIDTH = (2, 5), 48


def same_but_for_sums(found, expected):
    """Equal, but for a step of bfloat16 in each of two roundings where a sum came out otherwise."""
    torch.testing.assert_close(found, expected, rtol=4 * ROUNDING, atol=0)
    assert (found != expected).float().mean() < 0.01


def new_norm(seed, width=WIDTH):
    norm = LlamaRMSNorm(width, eps=1e-5).bfloat16().requires_grad_(False)
    norm.weight.copy_(normal(width, seed=seed))
    return norm


@pytest.mark.parametrize("rows", [(2, 5), (4, 200)], ids=["few", "many"])
def test_between_products_by_kernels_and_by_torch(rows):
    ours, theirs = CompiledBetween(), Between()
    hidden, added = normal(*rows, WIDTH, seed=0) * 30, normal(*rows, WIDTH, seed=1)
    norm = new_norm(2)
    for more in (None, added):
        (total, normed), (total_expected, expected) = (one.add_norm(hidden, more, norm) for one in (ours, theirs))
        assert torch.equal(total, total_expected)
        same_but_for_sums(normed, expected)
    both = normal(*rows, 2 * WIDTH, seed=3) * 20
    act = ACT2FN["silu"]
    same_but_for_sums(ours.gate(both, act), theirs.gate(both, act))
    other = ACT2FN["gelu"]
    assert torch.equal(ours.gate(both, other), theirs.gate(both, other))


def test_a_norm_of_torch_by_kernel():
    """Rounded once, at the end."""
    theirs = torch.nn.RMSNorm(WIDTH, eps=1e-5).bfloat16()
    theirs.weight.data = normal(WIDTH, seed=0)
    hidden = normal(*ROWS, WIDTH, seed=1) * 30
    with torch.inference_mode():
        found = in_tiles(torch.nn.Sequential(theirs))
        assert type(found[0]) is TiledNorm
        same_but_for_sums(found(hidden), theirs(hidden))
        exact = torch.nn.functional.rms_norm(hidden.double(), (WIDTH,), theirs.weight.double(), 1e-5)
    torch.testing.assert_close(found(hidden).double(), exact, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("norms", [[], [new_norm(4, 16), new_norm(5, 16)]], ids=["plain", "normed"])
def test_rotation_by_kernels_and_by_torch(norms):
    made = normal(*ROWS, 8, 16, seed=0)
    angle = torch.arange(80).view(*ROWS, 1, 8) / 7
    cos = torch.cat([angle.cos()] * 2, dim=-1).bfloat16()
    sin = torch.cat([-angle.sin(), angle.sin()], dim=-1).bfloat16()
    ours, theirs = (one.rotate(made.clone(), (cos, sin), (4, 2), norms) for one in (CompiledBetween(), Between()))
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape
        same_but_for_sums(found, expected)
    if not norms:
        assert all(torch.equal(found, expected) for found, expected in zip(ours, theirs, strict=True))


def test_what_kernels_can_not_read_is_refused():
    rope = torch.zeros(1, 2, 1, 8).bfloat16()
    with pytest.raises(ValueError, match=r"kernels: torch.float32 \(1, 2, 3, 8\) on cpu: needs bfloat16, on a CPU"):
        kernels.rotate(torch.zeros(1, 2, 3, 8), (rope, rope), 1, 1)
    with pytest.raises(ValueError, match=r"kernels: a rotation of \(1, 2, 1, 8\) is not of heads \(1, 2, 3, 16\)"):
        kernels.rotate(torch.zeros(1, 2, 3, 16).bfloat16(), (rope, rope), 1, 1)


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """A machine on which nothing was built."""

    def forget():
        for remembered in (build._loaded, functions._function, flash_cpu.missing):
            remembered.cache_clear()

    monkeypatch.setenv("BLOCK_DRAFTER_CACHE", str(tmp_path / "cache"))
    forget()
    yield forget
    monkeypatch.undo()
    forget()


@pytest.fixture
def small(anew, monkeypatch, tmp_path):
    """One source, compiled at once."""
    (tmp_path / "small.c").write_text("int one(void) { return 1; }")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "SOURCES", ("small.c",))
    return anew


def built():
    return [path.name for path in (cache_directory() / "kernels").iterdir()]


def test_it_is_compiled_once(small, monkeypatch):
    assert kernels.missing() is None
    (first,) = built()
    ran = []
    run = subprocess.run
    monkeypatch.setattr(build.subprocess, "run", lambda words, **more: ran.append(words) or run(words, **more))
    small()
    assert kernels.missing() is None
    assert len(ran) == 1  # the question which compiler and processor these are
    assert built() == [first]
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DANOTHER=1"))  # as another processor's macros would
    small()
    assert kernels.missing() is None
    assert len(built()) == 2


@pytest.mark.parametrize("left", [0, 1, 100], ids=["none", "less a byte", "less much"])
def test_a_damaged_library_is_made_again(left, small):
    """Loading one would end the process: it is shorter than its head says."""
    path = build._built(build._compiler())
    whole = path.read_bytes()
    path.write_bytes(whole[: -left or 0])
    assert build._built(build._compiler()) == path
    assert path.read_bytes() == whole


def test_without_a_place_for_it_torch_does_it(anew, monkeypatch, tmp_path):
    for name in ("BLOCK_DRAFTER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    homeless = RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", Mock(side_effect=homeless))
    assert "BLOCK_DRAFTER_CACHE: this user has no home" in kernels.missing()
    monkeypatch.setenv("BLOCK_DRAFTER_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.setenv("BLOCK_DRAFTER_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    anew()
    assert "Not a directory" in kernels.missing()


def test_many_may_compile_at_a_time(small):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(build._built, [build._compiler()] * 4))
    assert built() == [made[0].name]


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("false", r"false can't compile it \(exit code 1\)"),
        ("no-such-compiler -m32", r"can't be compiled or loaded \(.*no-such-compiler"),
        ("gcc '", r"can't be compiled or loaded \(No closing quotation\)"),
        ("sh -c 'printf \"\\374 \" >&2; exit 1'", r"sh can't compile it \(\ufffd\)"),
        (None, r"no C compiler is found \(cc, gcc, clang; set CC\)"),
    ],
    ids=["fails", "is not there", "unreadable", "says no text", "none"],
)
def test_without_a_compiler_torch_does_it(compiler, reason, anew, monkeypatch, caplog):
    if compiler is None:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(between, "_logged", set())
    with pytest.raises(ValueError, match=f"attention='flash_cpu': {reason}.*; use attention=sdpa"):
        choose_kernel("flash_cpu", CPU, torch.bfloat16)
    assert choose_kernel("auto", CPU, torch.bfloat16) == "sdpa"
    with caplog.at_level(logging.INFO, "drafter"):
        assert type(choose_between(CPU, torch.bfloat16)) is Between
        verifier = Verifier(tiny.build("llama")[0].bfloat16())
        hidden, _ = verifier.step(torch.tensor([[5, 6, 7]]), verifier.new_cache(1, 8))
    assert hidden.isfinite().all()
    assert [record.message.split(", ")[0] for record in caplog.records].count("kernels between products: torch's") == 1
    with pytest.raises(RuntimeError, match=f"kernels: {reason}"):
        build.library()


def test_a_compiler_that_gets_it_wrong_is_found(anew, monkeypatch):
    right = kernels.attend_cache
    monkeypatch.setattr(kernels, "attend_cache", lambda *tensors: right(*tensors) * 1.1)
    assert re.fullmatch(r"what it computes is not attention here \(off by 0.\d+\): .*CC.*", flash_cpu.missing())
    with pytest.raises(ValueError, match="attention='flash_cpu': what it computes is not attention here"):
        choose_kernel("flash_cpu", CPU, torch.bfloat16)


def test_kernels_of_other_devices_and_dtypes_are_refused():
    assert choose_kernel("auto", CPU, torch.bfloat16) == "flash_cpu"
    with pytest.raises(
        ValueError, match=r"attention='flash_cpu': needs bfloat16, not torch\.float32; use attention=sdpa"
    ):
        choose_kernel("flash_cpu", CPU, torch.float32)
    with pytest.raises(ValueError, match="attention='flash_cpu': needs a CPU; use attention=sdpa"):
        choose_kernel("flash_cpu", torch.device("cuda"), torch.bfloat16)
