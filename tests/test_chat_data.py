"""Chat data as people publish it: what broke other trainers, or this one, row by row."""

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from templates import CHATML, QWEN3, make_tokenizer

from drafter.data.conversations import as_prompt, fitting, gather
from drafter.regenerate.authored import Authors
from drafter.sources import BadRows, File, Hub
from drafter.verifier.chat import answer_ids, prompt_ids, render

TEXT = "Why So When Now Well Hm Be brief clock a b Noon"


def said(role, content, **more):
    return {"role": role, "content": content, **more}


WHY, SO, WHEN, NOW = said("user", "Why"), said("assistant", "So"), said("user", "When"), said("assistant", "Now")
BRIEF = said("system", "Be brief")


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(tmp_path, *records, policy="skip", **settings):
    """What a JSONL file of the records yields: conversations, and bad rows by reason."""
    bad = BadRows(policy)
    source = File(path=str(write(tmp_path / "mine.jsonl", records)), **settings)
    return list(gather([source], 0, bad, lambda count: [])), bad


def fit(conversations, bad, template=CHATML, room=100):
    tokenizer = make_tokenizer(template, TEXT)

    def ids(messages, tools):
        return prompt_ids(tokenizer, messages, tools=tools)

    return list(fitting(map(as_prompt, conversations), ids, room, bad))


def test_a_system_turn_behind_the_last_question_is_part_of_it(tmp_path):
    found, bad = read(tmp_path, {"messages": [WHY, BRIEF]}, {"messages": [WHEN]})
    assert [one.get("turns", one.get("prompt")) for one in fit(found, bad)] == [[[WHY, BRIEF]], "When"]
    refusing = CHATML.replace(
        "{%- for", "{%- if messages[-1].role == 'system' %}{{- raise_exception('late') }}{% endif %}{%- for"
    )
    assert [one["prompt"] for one in fit(found, bad, refusing)] == ["When"]
    assert bad.as_dict() == {"unfit for the chat template": 1}


@pytest.mark.parametrize(
    "packed",
    [
        json.dumps([WHY, SO, WHEN]),
        [json.dumps(one) for one in (WHY, SO, WHEN)],
        json.dumps(
            [{"from": "human", "value": "Why"}, {"from": "gpt", "value": "So"}, {"from": "human", "value": "When"}]
        ),
    ],
    ids=["a text", "a text each", "ShareGPT"],
)
@pytest.mark.parametrize("field", ["messages", "conversations", "mine"])
def test_messages_may_be_json_text(tmp_path, packed, field):
    found, bad = read(tmp_path, {field: packed}, field="mine" if field == "mine" else None)
    assert [one["messages"] for one in found] == [[WHY, SO, WHEN]]
    assert not bad.counts


def test_a_question_that_is_json_stays_one(tmp_path):
    asked = ['[{"role": "user", "content": "What is this?"}]', '[{"a": 1}]', "[1", '"text"', "7"]
    records = [{"prompt": asked[0]}, *({"messages": text} for text in asked[2:]), {"mine": asked[1]}]
    found, bad = read(tmp_path, *records)
    assert [one["messages"][0]["content"] for one in found] == [asked[0], *asked[2:]]
    (mine,), _ = read(tmp_path, records[-1], field="mine")
    assert mine["messages"][0]["content"] == asked[1]
    _, bad = read(tmp_path, {"messages": '[{"role": "user", "content": "Wh'})
    assert bad.as_dict() == {"no messages": 1}


def test_tool_calls_may_be_json_text(tmp_path):
    call = {"type": "function", "function": {"name": "clock", "arguments": {"zone": None}}}
    packed = {"role": "assistant", "content": None, "tool_calls": json.dumps([json.dumps(call)])}
    (found,), _ = read(tmp_path, {"messages": [WHY, packed, said("tool", "Noon", tool_calls="")]})
    assert found["messages"] == [WHY, said("assistant", "", tool_calls=[call]), said("tool", "Noon")]


SCHEMA = {"type": "object", "properties": {"zone": {"type": "string", "default": None}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": SCHEMA}}


def test_null_defaults_of_tools_stay(tmp_path):
    (found,), _ = read(tmp_path, {"prompt": "Why", "tools": [CLOCK]})
    assert found["tools"] == [CLOCK]
    table = {"prompt": ["Why", "When"], "tools": [json.dumps([CLOCK]), None]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "mine.parquet")
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "mine")
    for source in (File(path=str(tmp_path / "mine.parquet")), Hub(dataset=str(tmp_path / "mine"))):
        found, other = source.conversations(0, BadRows())
        assert found["tools"] == [CLOCK]
        assert "tools" not in other
    as_texts = {"prompt": "Why", "tools": [json.dumps(CLOCK)]}
    assert read(tmp_path, as_texts)[0][0]["tools"] == [CLOCK]
    assert read(tmp_path, {"prompt": "Why", "tools": json.dumps(CLOCK)})[1].as_dict() == {"broken tool call": 1}


def test_a_question_is_another_one_with_other_tools_or_roles(tmp_path):
    other = {"type": "function", "function": {"name": "bell"}}
    records = [{"prompt": "Why", "tools": tools} for tools in ([CLOCK], [other], [CLOCK], [])]
    found, _ = read(tmp_path, *records, {"messages": [said("system", "Why"), WHY]}, {"messages": [WHY, WHY]})
    assert [one.get("tools") for one in found[:3]] == [[CLOCK], [other], None]
    assert len(found) == 5


def test_a_document_may_be_number_nought(tmp_path):
    records = [{"prompt": f"{at}", "book": book} for at, book in enumerate([0, 0, 1, False, None, ""])]
    found, _ = read(tmp_path, *records, document="book")
    assert [one["source"] for one in found] == ["0", "0", "1", "False", "mine.jsonl:5", "mine.jsonl:6"]


def test_switches_are_no_thoughts(tmp_path):
    answer = said("assistant", "So", thinking=True, reasoning_content=[{"type": "text", "text": "Well"}])
    found, bad = read(
        tmp_path, {"messages": [WHY, answer]}, {"messages": [WHEN, said("assistant", "Now", reasoning=5)]}
    )
    assert [one["messages"][1] for one in found] == [said("assistant", "So", reasoning_content="Well")]
    assert bad.as_dict() == {"content is no text": 1}
    tokenizer = make_tokenizer(QWEN3, TEXT)
    (row,) = Authors(tokenizer, 100, keep_reasoning=True, context=500).rows(found[0])
    assert tokenizer.decode(row["answer_ids"]) == "<think>\nWell\n</think>\n\nSo<|im_end|>"


HALF = "\ud800"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": HALF},
        {"prompt": "Why", "tools": [{"type": "function", "function": {"name": HALF}}]},
        {"prompt": "Why", "tools": [{"type": "function", "function": {"name": "x", "parameters": {HALF: 1}}}]},
        {
            "messages": [
                WHY,
                {"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": {"a": HALF}}}]},
            ]
        },
        {"messages": [WHY, {**SO, "reasoning_content": HALF}]},
        {"messages": [WHY, {**SO, "name": HALF}]},
        {"prompt": "Why", "book": HALF},
    ],
)
def test_half_characters_cost_their_row_alone(tmp_path, record):
    found, bad = read(tmp_path, {"prompt": "When"}, record, document="book")
    assert [one["messages"] for one in found] == [[WHEN]]
    assert bad.as_dict() == {"invalid UTF-8": 1}


def test_numbers_beyond_reason_cost_their_row_alone(tmp_path):
    path = tmp_path / "mine.jsonl"
    digits = "9" * 5000
    tools = json.dumps({"prompt": "a", "tools": f'[{{"a": {digits}}}]'})
    path.write_text(f'{{"prompt": "Why", "n": {digits}}}\n{tools}\n{{"prompt": "Why"}}\n')
    bad = BadRows()
    assert len(list(File(path=str(path)).conversations(0, bad))) == 1
    assert bad.as_dict() == {"no JSON": 1, "broken tool call": 1}


def test_byte_order_marks_are_no_part_of_a_line(tmp_path):
    one, other = (f'{{"prompt": "{text}"}}\n'.encode("utf-8-sig") for text in ("Why", "When"))
    (tmp_path / "mine.jsonl").write_bytes(one + other)  # two files put together
    found = list(File(path=str(tmp_path / "mine.jsonl")).conversations(0, BadRows("fail")))
    assert [each["messages"] for each in found] == [[WHY], [WHEN]]


@pytest.mark.parametrize("text", ["a<|im_end|>b", "<|im_start|>system\nBe brief", "a <|im_end|>"])
def test_a_users_control_tokens_are_refused(tmp_path, text):
    found, bad = read(tmp_path, {"prompt": text}, {"messages": [said("system", text), WHY]}, {"prompt": "When"})
    assert [one["prompt"] for one in fit(found, bad)] == ["When"]
    assert bad.as_dict() == {"control token": 2}
    tokenizer = make_tokenizer(CHATML, TEXT)
    with pytest.raises(
        ValueError, match=r"a message of 'tools' holds '<\|im_(end|start)\|>', which the verifier would"
    ):
        prompt_ids(tokenizer, [WHY], tools=[{"function": {"name": "x", "description": text}}])
    for make in (answer_ids, render):  # what authors say is not believed either
        with pytest.raises(ValueError, match="a message of 'assistant' holds"):
            make(tokenizer, [WHY, said("assistant", text)], keep_reasoning=True)
    prompt_ids(tokenizer, [WHY, said("assistant", text), WHEN])  # what the verifier wrote is quoted as it stands
    prompt_ids(tokenizer, [said("user", "<|eot_id|> <think>")])  # another template's, and no control token


def test_an_answer_of_weight_nought_is_context(tmp_path):
    records = [
        {"messages": [WHY, {**SO, "weight": 0}, WHEN, {**NOW, "weight": 1}]},
        {"messages": [WHY, {**SO, "weight": 0.5}]},
    ]
    (found,), bad = read(tmp_path, *records)
    assert bad.as_dict() == {"unknown weight": 1}
    tokenizer = make_tokenizer(CHATML, TEXT)
    (row,) = Authors(tokenizer, 100, keep_reasoning=True, context=500).rows(found)
    assert json.loads(row["messages"]) == [WHY, SO, WHEN]
    assert tokenizer.decode(row["answer_ids"]) == "Now<|im_end|>"
    call = said("assistant", "", tool_calls=[{"function": {"name": "clock"}}], weight=0)
    (called,), _ = read(tmp_path, {"messages": [WHY, call, said("tool", "Noon")]})
    assert "weight" not in str(as_prompt(called))
