"""The benchmark of a training step: both of our ways take the same step, and its clock sees memory."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
sys.path.append(str(Path(__file__).parent.parent / "benchmarks/steps"))
import ours
import training
import turns

SIZES = {"width": 128, "layers": 2, "vocabulary": 64, "anchors": 9, "length": 40, "block_size": 4}
TINY = Namespace(**SIZES, device="cpu", threads=1, precision="float32")


def test_both_ways_take_the_same_step(tmp_path):
    folder = training.lay_down(tmp_path / "step", training.problem(TINY))
    settings, tensors = turns.read(folder)
    assert settings["anchors"] == 9
    found = []
    for way in ("split", "plain"):
        drafter = ours.make(settings, tensors, way)
        loss = ours.loss(drafter, settings, tensors, way)
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in drafter.parameters())])
    assert all(one.abs().sum() > 0 for one in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_peak_is_what_a_step_held_above_what_stood_before():
    kept = torch.ones(1 << 22)  # 16 MiB that stand before

    def step(count):
        made = torch.ones(count)
        return made[0] + kept[0]

    for mib in (32, 64):
        found = turns.measured(lambda mib=mib: step(mib << 18), "cpu")
        assert found["peak"] / 2**20 == pytest.approx(mib, abs=4)
        assert found["loss"] == 2
