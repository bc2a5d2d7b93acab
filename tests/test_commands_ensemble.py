"""Commands that decode by a trained head: named in the rule, read before the models, refused where it does not fit."""

import pytest
import torch
from conftest import make_relative

from drafter.__main__ import main
from drafter.models.ensemble_head import EnsembleHead, HeadConfig


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relative")
    relative = make_relative("llama")
    relative.model.save_pretrained(folder)
    relative.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def head(tmp_path):
    made = EnsembleHead(HeadConfig(64, 64))
    torch.nn.init.normal_(made.linear.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    made.save(tmp_path / "head")
    return tmp_path / "head"


def words(pair, rule, *more):
    return ["generate", str(pair), "--verifier", "tiny-llama", "--rule", rule, "--max-new-tokens", "8", *more, "Hello"]


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_generate_decodes_by_a_head(pair, head, capsys, temperature):
    main(words(pair, f"dynamic_ensemble:head={head}", "--temperature", temperature))
    assert "with drafts" in capsys.readouterr().err


def test_a_head_that_is_not_there_or_does_not_fit(pair, head, tmp_path):
    EnsembleHead(HeadConfig(3, 64)).save(tmp_path / "other")
    for rule, message in (
        ("dynamic_ensemble", "name the head that weighs, dynamic_ensemble:head=DIR"),
        ("dynamic_ensemble:head=nowhere", "head='nowhere': holds no ensemble_head.json"),
        (f"dynamic_ensemble:head={tmp_path / 'other'}", "drafter_width=3, here it is 64"),
        ("lenient:head=x", "rule='lenient'"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(words(pair, rule))
