"""Attention over blocks: every kernel equals the dense one, in outputs and gradients."""

import logging
from itertools import product

import pytest
import torch
from conftest import make_drafter, make_verifier

from drafter.attention import over_blocks as rooms
from drafter.attention.over_blocks import KERNELS, check_over_blocks, flex, over_blocks, split
from drafter.config import TrainingConfig

ROWS, LENGTH, COUNT, SIZE, HEADS, GROUPS, WIDTH = 3, 30, 7, 4, 6, 3, 8
KINDS = list(product([False, True], [None, 1, 4, 100]))  # causal, window


def anchors():
    """Ascending in each row; the second row leaves some unused, the third begins with one that has no context."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randperm(LENGTH - 1, generator=generator)[:COUNT].sort().values for _ in range(ROWS)]
    found = torch.stack(made)
    found[1, -3:] = 0
    found[2, 0] = 0
    return found


def documents():
    """One document, three, and two with padding behind."""
    found = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    found[1, 5:12], found[1, 12:], found[2, 10:], found[2, 25:] = 1, 2, 1, -1
    return found


def tensors(dtype=torch.float64, value=WIDTH, width=WIDTH):
    generator = torch.Generator().manual_seed(1)
    slots = COUNT * SIZE
    shapes = [(slots, HEADS, width), (slots, GROUPS, width), (slots, GROUPS, value), (LENGTH, GROUPS, width)]
    shapes.append((LENGTH, GROUPS, value))
    return [torch.randn(ROWS, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def attended(kernel, packed, causal, window, inputs):
    made = over_blocks(kernel, anchors(), LENGTH, SIZE, documents() if packed else None, WIDTH)
    return made(*inputs, causal=causal, window=window, scale=0.3)


def with_gradients(kernel, packed, causal, window, inputs):
    inputs = [one.requires_grad_() for one in inputs]
    out = attended(kernel, packed, causal, window, inputs)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, pull)]


@pytest.mark.parametrize("room", [1, 300, 4000, 1 << 18], ids=["block by block", "few", "rows", "whole"])
@pytest.mark.parametrize("packed", [False, True], ids=["documents apart", "packed"])
def test_split_equals_the_dense_kernel(packed, room, monkeypatch):
    monkeypatch.setattr(split, "SCORES_AT_ONCE", room)
    for causal, window in KINDS:
        expected = with_gradients("eager", packed, causal, window, tensors())
        found = with_gradients("split", packed, causal, window, tensors())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("packed", [False, True], ids=["documents apart", "packed"])
def test_flex_equals_the_dense_kernel_as_far_as_a_cpu_runs_it(packed):
    for causal, window in KINDS[1:4:2] + KINDS[4:7:2]:
        with torch.no_grad():
            expected = attended("eager", packed, causal, window, tensors(torch.float32))
            found = attended("flex", packed, causal, window, tensors(torch.float32))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_split_in_float32_and_with_values_of_another_width():
    for one, other in zip(
        with_gradients("split", True, False, 4, tensors(torch.float32, 5)),
        with_gradients("eager", True, False, 4, tensors(torch.float64, 5)),
        strict=True,
    ):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_split_in_half_precision_is_no_further_from_the_truth_than_the_dense_kernel():
    truth = with_gradients("eager", True, False, None, tensors())
    ours = with_gradients("split", True, False, None, tensors(torch.bfloat16))
    dense = with_gradients("eager", True, False, None, tensors(torch.bfloat16))
    for exact, one, other in zip(truth, ours, dense, strict=True):
        assert one.dtype is torch.bfloat16
        assert (one - exact).norm() <= 1.1 * (other - exact).norm()


def test_split_under_autocast_takes_the_precision_of_products():
    inputs = tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = attended("split", False, False, None, inputs)
    assert torch.equal(found, attended("split", False, False, None, [one.bfloat16() for one in inputs]))


def test_later_blocks_read_more_context_and_none_reads_what_nobody_sees(monkeypatch):
    monkeypatch.setattr(split, "SCORES_AT_ONCE", 1)
    made = split.Split(anchors(), LENGTH, SIZE, documents())
    parts = made.parts(HEADS, None)
    assert len(parts) == ROWS * COUNT
    begins = {0: [0], 1: [0, 5, 12], 2: [0, 10, 25]}
    for few in parts:
        row, block = few.rows.start, few.blocks.start
        anchor = int(anchors()[row, block])
        begin = max(start for start in begins[row] if start <= anchor)
        assert (few.context.start, few.context.stop) == ((begin, anchor) if anchor > begin else (0, 1))
        assert (few.hidden is None) == (anchor > begin)  # a block without context takes one hidden position
    windowed = made.parts(HEADS, 4)
    assert all(few.context.stop - few.context.start <= 3 for few in windowed)


@pytest.mark.parametrize("kernel", ["split", "eager"])
def test_a_drafter_trains_the_same_with_either(kernel):
    drafter = make_drafter(make_verifier("llama")).double()
    drafter.attention = kernel
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(ROWS, COUNT, drafter.block_size, drafter.config.hidden_size, generator=generator).double()
    taps = torch.randn(ROWS, LENGTH, drafter.fc.in_features, generator=generator).double()
    out = drafter(block, taps, anchors(), documents())
    out.sin().sum().backward()
    found = [out.detach(), *(weight.grad for weight in drafter.parameters())]
    drafter.zero_grad()
    drafter.attention = "eager"
    drafter(block, taps, anchors(), documents()).sin().sum().backward()
    for one, weight in zip(found[1:], drafter.parameters(), strict=True):
        torch.testing.assert_close(one, weight.grad, rtol=0, atol=1e-10)


def test_auto_goes_by_size_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(rooms, "_logged", set())
    few, many = torch.arange(4)[None], torch.arange(512)[None]
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert isinstance(over_blocks("auto", few, 100, 4, None, 64), KERNELS["eager"])
            assert isinstance(over_blocks("auto", many, 2048, 16, None, 64), KERNELS["split"])
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "attention over blocks: eager",
        "attention over blocks: split",
    ]


def test_what_cannot_be_is_refused_in_a_line():
    with pytest.raises(ValueError, match=r"training.attention='dense': choose one of auto, eager, split, flex"):
        TrainingConfig(attention="dense")
    with pytest.raises(ValueError, match=r"training.attention='flex': needs a CUDA device; use auto, split or eager"):
        check_over_blocks("flex", "cpu", 64)
    with pytest.raises(
        ValueError, match=r"training.attention='flex': needs heads of 16 or more, not 8; use auto, split or eager"
    ):
        check_over_blocks("flex", "cuda:0", 8)
    check_over_blocks("auto", "cpu", 8)


@pytest.mark.parametrize(
    ("triton", "compiler", "why"),
    [
        (True, True, None),
        (False, True, "needs Triton, which is not installed"),
        (True, False, "needs a C compiler: gcc, clang or one that $CC names"),
    ],
)
def test_flex_needs_what_it_is_compiled_with(monkeypatch, triton, compiler, why):
    monkeypatch.setattr(flex, "find_spec", lambda name: triton or None)
    monkeypatch.setattr(flex, "which", lambda name: "/usr/bin/cc" if compiler and name == "gcc" else None)
    monkeypatch.delenv("CC", raising=False)
    assert flex.missing("cuda:0", 16) == why


@pytest.mark.parametrize(
    ("slots", "length", "why", "expected"),
    [
        (32, 160, None, "eager"),
        (512, 270, None, "split"),
        (8192, 2048, None, "flex"),
        (8192, 2048, "needs a CUDA device", "split"),
    ],
)
def test_auto_takes_flex_where_it_runs_and_pays(monkeypatch, slots, length, why, expected):
    monkeypatch.setattr(flex, "missing", lambda device, width: why)
    assert rooms.choice(torch.device("cuda"), slots, length, 64) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True], ids=["documents apart", "packed"])
@pytest.mark.parametrize("kernel", ["flex", "split"])
def test_kernels_equal_the_dense_one_on_a_device(kernel, packed):
    device = "cuda"
    for causal, window in KINDS:
        found = []
        for one in (kernel, "eager"):
            inputs = [each.to(device).requires_grad_() for each in tensors(torch.float32, 16, 16)]
            packs = documents().to(device) if packed else None
            out = over_blocks(one, anchors().to(device), LENGTH, SIZE, packs, 16)(
                *inputs, causal=causal, window=window, scale=0.3
            )
            found.append([out.detach(), *torch.autograd.grad(out.sin().sum(), inputs)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
