"""The benchmark of K-Forcing on its smallest shape: every way writes whole answers, each size is kept at once."""

import argparse
import csv
import importlib.util

import pytest
import torch
from conftest import ROOT


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_k_forcing", ROOT / "benchmarks/k_forcing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_at_every_size(bench, tmp_path, capsys):
    verifier = bench.random_verifier("tiny", torch.float32, "cpu", "off")
    words = {"tokens_per_pass": [1, 4], "prompt_tokens": 5, "new_tokens": 9, "tries": 1, "compile": "off"}
    options = argparse.Namespace(batch_sizes=[1, 2], csv=tmp_path / "speed.csv", **words)
    bench.measure(options, verifier)
    with options.csv.open() as file:
        found = list(csv.DictReader(file))
    ways = [bench.GREEDY, bench.SAMPLED, "k = 1", "k = 4"]
    assert [(one["batch_size"], one["way"]) for one in found] == [(size, way) for size in "12" for way in ways]
    assert [float(one["tokens_per_pass"]) for one in found] == 2 * [1, 1, 1, 2.5]  # 9 tokens: 4 of the prefill, 4, 1
    for size in "12":
        teachers = [float(one["speedup"]) for one in found if one["batch_size"] == size and "teacher" in one["way"]]
        assert max(teachers) == 1
    assert capsys.readouterr().out.count("| k = 4") == 2


def test_what_does_not_fit_ends_it_and_loses_nothing(bench, monkeypatch, capsys):
    def rates(ways, prompts, *_):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return dict.fromkeys(ways, (1.0, 1.0))

    monkeypatch.setattr(bench, "rates", rates)
    monkeypatch.setattr(bench, "ways_of", lambda *_: {bench.GREEDY: None, bench.SAMPLED: None})
    options = argparse.Namespace(
        batch_sizes=[1, 2, 4], csv=None, tokens_per_pass=[1], prompt_tokens=2, new_tokens=2, tries=1, compile="off"
    )
    verifier = argparse.Namespace(head=torch.zeros(9, 1))
    assert len(bench.measure(options, verifier)) == 2
    assert "batch size 2: does not fit the device's memory" in capsys.readouterr().out
