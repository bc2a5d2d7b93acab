"""Code that lies beside a model's weights is never run, whatever is typed where transformers would ask."""

import ast
import builtins
import json
from contextlib import suppress

import pytest
from conftest import ROOT, make_verifier

from drafter.check.verifier import VerifierFacts
from drafter.models import CausalDrafter
from drafter.verifier import Verifier, VerifierHead
from drafter.verifier.tokenizer import context_length, load_tokenizer

CLASSES = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Tokenizer", None]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model that asks for its own code; whoever is asked says yes."""
    verifier = make_verifier("llama")
    verifier.model.save_pretrained(tmp_path / "model")
    verifier.tokenizer.save_pretrained(tmp_path / "model")
    for name in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "model" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "its_own", "auto_map": CLASSES}))
    ran = tmp_path / "ran"
    (tmp_path / "model/code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.setattr(builtins, "input", lambda *said: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield tmp_path / "model"
    assert not ran.exists()


@pytest.mark.parametrize(
    "load",
    [VerifierFacts.load, load_tokenizer, context_length, Verifier.load, VerifierHead.load, CausalDrafter.load],
    ids=lambda load: load.__qualname__,
)
def test_code_beside_the_weights_is_not_run(folder, load):
    with suppress(ValueError):  # a tokenizer may do without
        load(str(folder))


def test_nothing_is_loaded_without_a_word_on_code():
    silent = []
    for path in ROOT.glob("drafter/**/*.py"):
        text = path.read_text()
        for call in ast.walk(ast.parse(text)) if ".from_pretrained(" in text else ():
            made = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
            if made.startswith("Auto") and made.endswith(".from_pretrained"):
                said = {word.arg: ast.unparse(word.value) for word in call.keywords}
                silent += [f"{path}:{call.lineno}"] * (said.get("trust_remote_code") != "False")
    assert not silent
