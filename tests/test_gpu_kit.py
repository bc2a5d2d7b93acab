"""The GPU kit, as far as it goes without a GPU: a command that is refused, or times the CPU, would waste a loan."""

import importlib.util
import shlex
import sys

import pytest
from conftest import ROOT

from drafter.config import RunConfig, load_as

KIT = ROOT / "benchmarks/gpu/stages.py"


@pytest.fixture(scope="module")
def steps():
    spec = importlib.util.spec_from_file_location("stages", KIT)
    stages = sys.modules["stages"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stages)
    yield [step for stage in stages.STAGES.values() for step in stage]
    del sys.modules["stages"]


def words(step):
    return shlex.split(step.command.format(out="out", own=""))


def test_recipes_take_what_the_stages_say(steps, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = [words(step)[2:] for step in steps if words(step)[1] == "train.py"]
    assert len(said) >= 6
    for recipe, *overrides in said:
        load_as(RunConfig, recipe, overrides)


def test_benchmarks_take_their_options_and_time_the_gpu_alone(steps):
    said = [words(step)[1:] for step in steps if words(step)[1].startswith("benchmarks/")]
    assert {"benchmarks/decoding.py", "benchmarks/k_forcing.py"} <= {script for script, *_ in said}
    for script, *options in said:
        source = (ROOT / script).read_text()
        assert [one for one in options if one.startswith("--") and f'"{one}"' not in source] == [], script
        if '"--device' in source and "--exactness" not in options:  # which takes the last device there is
            assert "cuda" in options, script
