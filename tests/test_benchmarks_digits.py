"""The head that is told what matters: its labels, its fit, and that the map takes it."""

import sys

import torch
from conftest import ROOT, make_relative, make_verifier

from drafter.models.ensemble_head import EnsembleHead, HeadConfig

sys.path.append(str(ROOT / "benchmarks"))
import digits_head


def test_states_are_told_by_the_token_that_they_predict():
    verifier = make_verifier("llama")
    hidden = torch.randn(40, verifier.config.hidden_size, generator=torch.Generator().manual_seed(0))
    said = [verifier.tokenizer.decode([one]) for one in verifier.logits(hidden).argmax(-1).tolist()]
    assert digits_head.holds_digit(verifier, hidden).tolist() == [
        float(any(c in "0123456789" for c in one)) for one in said
    ]


def test_a_line_between_states_is_found():
    states = [9 * torch.randn(64, width, generator=torch.Generator().manual_seed(width)) for width in (4, 3)]
    head = EnsembleHead(HeadConfig(4, 3))
    assert digits_head.fit(head, *states, (states[0][:, 1] > 3).float()) > 0.95


def test_the_head_stands_where_a_runs_would(tmp_path, capsys):
    relative = make_relative("llama")
    relative.model.save_pretrained(tmp_path / "pair")
    relative.tokenizer.save_pretrained(tmp_path / "pair")
    words = ["verifier.source=tiny-llama", f"ensemble.drafter={tmp_path / 'pair'}", "ensemble.draft_length=2"]
    words += [
        "training.precision=float32",
        "tasks.max_new_tokens=4",
        "tasks.count=24",
        f"output={tmp_path}",
        "name=digits",
    ]
    EnsembleHead(HeadConfig(64, 64), 0.25).save(tmp_path / "quarter")
    digits_head.main(["diversed_quickstart", *words, "--heads", str(tmp_path / "quarter")])
    said = capsys.readouterr().out
    assert "this head: weight" in said
    assert "quarter: weight" in said
    assert "0.250 elsewhere" in said
    assert EnsembleHead.load(tmp_path / "digits/head").linear.weight.abs().max() > 0
