"""Files and data sets of prompts and conversations, in the shapes that people publish them in."""

import gzip
import json
import tracemalloc

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from drafter.sources import BadRows, File, Hub
from drafter.sources.texts import HubTexts


def said(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
SHAPES = [
    ({"prompt": "Why?"}, [said("user", "Why?")]),
    ({"prompt": [said("user", "Why?")]}, [said("user", "Why?")]),
    ({"system": "Be brief", "prompt": "Why?"}, [said("system", "Be brief"), said("user", "Why?")]),
    (
        {"messages": [said("developer", "Be brief"), said("user", "Why?"), said("assistant", "So.")]},
        [said("system", "Be brief"), said("user", "Why?"), said("assistant", "So.")],
    ),
    (
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        [said("user", "Why?"), said("assistant", "So.")],
    ),
    (
        {"messages": [said("user", [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}])]},
        [said("user", "Why?")],
    ),
    (
        {"messages": [said("user", "Why?"), said("assistant", "So.", reasoning_content="Well", other=1)]},
        [said("user", "Why?"), said("assistant", "So.", reasoning_content="Well")],
    ),
]


def write_jsonl(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def read(source, policy="fail"):
    bad = BadRows(policy)
    return list(source.conversations(0, bad)), bad.as_dict()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize(("record", "messages"), SHAPES)
def test_shapes_of_records_become_one(tmp_path, suffix, record, messages):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    else:
        write_jsonl(path, [record])
    assert read(File(path=str(path))) == ([{"source": f"{path.name}:1", "kind": path.name, "messages": messages}], {})


def test_tool_turns_are_read(tmp_path):
    tools = [{"type": "function", "function": {"name": "clock"}}]
    as_text = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    messages = [
        said("user", "When?"),
        {"role": "assistant", "content": None, "tool_calls": [as_text]},
        said("tool", "Noon", tool_call_id="c1"),
    ]
    shared = [
        {"from": "human", "value": "When?"},
        {"from": "function_call", "value": '{"name": "clock", "arguments": {"zone": "UTC"}}'},
        {"from": "observation", "value": "Noon"},
    ]
    write_jsonl(
        tmp_path / "tools.jsonl",
        [{"messages": messages, "tools": json.dumps(tools)}, {"conversations": shared, "tools": tools}],
    )
    (first, second), _ = read(File(path=str(tmp_path / "tools.jsonl")))
    assert first["tools"] == second["tools"] == tools
    call = said("assistant", "", tool_calls=[CALL])
    assert first["messages"] == [said("user", "When?"), call, said("tool", "Noon", tool_call_id="c1")]
    nameless = {key: value for key, value in CALL.items() if key != "id"}
    assert second["messages"] == [said("user", "When?"), call | {"tool_calls": [nameless]}, said("tool", "Noon")]


def test_fields_may_have_other_names(tmp_path):
    records = [{"question": f"Why {i}?", "reply": f"So {i}.", "book": "a", "prompt": "no"} for i in range(5)]
    write_jsonl(tmp_path / "mine.jsonl", records)
    settings = {"field": "question", "answer": "reply", "document": "book", "limit": 3}
    found, _ = read(File(path=str(tmp_path / "mine.jsonl"), **settings))
    assert [one["messages"] for one in found] == [
        [said("user", f"Why {i}?"), said("assistant", f"So {i}.")] for i in range(3)
    ]
    assert {one["source"] for one in found} == {"a"}


def test_a_pattern_is_all_of_its_files_in_order(tmp_path, monkeypatch):
    for name in "cab":
        write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{i}"} for i in range(2)])
    found, _ = read(File(path=str(tmp_path / "*.jsonl")))
    assert [one["messages"][0]["content"] for one in found] == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert found[3]["source"] == "b.jsonl:2"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(File(path="~/a.jsonl"))[0] == read(File(path=str(tmp_path / "a.jsonl")))[0] != []
    with pytest.raises(ValueError, match=r"path='.*none\.jsonl': no such file"):
        read(File(path=str(tmp_path / "none.jsonl")))


@pytest.fixture
def saved(tmp_path):
    """A data set of conversations and one of prompts, as `datasets` saves them."""
    rows = [{"messages": [said("user", f"Why {i}?"), said("assistant", "So.")]} for i in range(5)]
    made = datasets.Dataset.from_list(rows)
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([4])}).save_to_disk(tmp_path / "split")
    (tmp_path / "files").mkdir()
    write_jsonl(tmp_path / "files" / "train.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["one", "split", "files"])
def test_data_sets_of_a_directory_are_read(saved, name, streaming, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", saved / "cache")
    found, bad = read(Hub(dataset=str(saved / name), streaming=streaming, limit=3))
    assert [one["messages"] for one in found] == [
        [said("user", f"Why {i}?"), said("assistant", "So.")] for i in range(3)
    ]
    assert [one["source"] for one in found] == [f"{name}:{i}" for i in (1, 2, 3)]
    assert not bad


def test_data_sets_that_are_not_there_are_named(saved, monkeypatch):
    assert len(read(Hub(dataset=str(saved / "split"), split="test"))[0]) == 1
    for settings in ({"dataset": str(saved / "split"), "split": "other"}, {"dataset": str(saved / "nowhere")}):
        with pytest.raises(ValueError, match=r"dataset='.*', split='.*': can't be read \(.*\); check both") as caught:
            read(Hub(**settings))
        assert "\n" not in str(caught.value)


def test_data_sets_of_texts_are_read_as_those_of_conversations_are(saved):
    """What `save_to_disk` wrote, too; a field that holds no text is named."""
    made = datasets.Dataset.from_dict({"text": ["One.", "Two.", None], "words": [1, 2, 3]})
    made.save_to_disk(saved / "texts")
    source = HubTexts(dataset=str(saved / "texts"), limit=2)
    assert [text for _, text in source.documents()] == ["One.", "Two."]
    for wrong, message in (
        ({}, "row 2 has no text in 'text', of text, words; name another field"),
        ({"field": "words"}, "row 0 has no text in 'words'"),
        ({"field": "body"}, "row 0 has no text in 'body'"),
        ({"dataset": str(saved / "nowhere")}, r"text.sources: dataset='.*', split='train': can't be read"),
        ({"limit": 0}, "limit=0: must be >= 1, or null"),
    ):
        with pytest.raises(ValueError, match=message):
            list(HubTexts(**{"dataset": str(saved / "texts"), **wrong}).documents())


def test_a_long_line_is_never_held(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        file.write('{"prompt": "a"}\n{"prompt": "' + "x" * 10_000_000 + '"}\n{"prompt": "b"}\n')
    tracemalloc.start()
    found, bad = read(File(path=str(path), longest=100_000), "skip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one["source"] for one in found] == ["long.jsonl:1", "long.jsonl:3"]
    assert bad == {"too long": 1}
    assert peak < 2_000_000
