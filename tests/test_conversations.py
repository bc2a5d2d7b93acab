"""Conversations of all sources, each question once, and as the verifier is asked them."""

import json

import pytest
from templates import LLAMA3, make_tokenizer

from drafter.data.conversations import as_conversation, as_prompt, fitting, gather
from drafter.sources import BadRows, File, SelfPrompting
from drafter.verifier.chat import prompt_ids

SYSTEM = {"role": "system", "content": "Be brief"}
WHY, SO = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
WHEN = {"role": "user", "content": "When?"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "clock"}}]}
NOON = {"role": "tool", "content": "Noon"}
ABOUT = {"source": "a", "kind": "b"}


def test_a_question_is_asked_once_whichever_source_asks_it(tmp_path):
    """Answers do not make a question another one; a system prompt does."""
    records = [[WHY, SO], [WHY], [SYSTEM, WHY], [WHY, SO, WHEN], [WHY, {**SO, "content": "Because."}, WHEN], [WHEN]]
    lines = "".join(json.dumps({"messages": messages}) + "\n" for messages in records)
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(lines)
    asked = []

    def write(count):
        asked.append(count)
        return [{"source": f"chat/{text}", "kind": "chat", "prompt": text} for text in ("Why?", "How?")]

    sources = [File(path=str(tmp_path / "one.jsonl")), SelfPrompting(count=2), File(path=str(tmp_path / "two.jsonl"))]
    found = list(gather(sources, 0, BadRows(), write))
    assert [one["source"] for one in found] == [*(f"one.jsonl:{number}" for number in (1, 3, 4, 6)), "chat/How?"]
    assert found[0]["messages"] == [WHY, SO]
    assert found[-1]["messages"] == [{"role": "user", "content": "How?"}]
    assert asked == [2]


def test_prompts_are_what_is_said_before_each_answer():
    assert as_prompt({**ABOUT, "messages": [WHY, SO]}) == {**ABOUT, "prompt": "Why?"}
    assert as_prompt({**ABOUT, "messages": [WHY, SO, WHEN, SO]}) == {**ABOUT, "turns": [[WHY], [WHEN]]}
    assert as_prompt({**ABOUT, "messages": [SYSTEM, WHY]}) == {**ABOUT, "turns": [[SYSTEM, WHY]]}
    assert as_prompt({**ABOUT, "messages": [WHY, CALL, NOON, SO]}) == {**ABOUT, "turns": [[WHY, CALL, NOON]]}
    tools = {"tools": [{"type": "function", "function": {"name": "clock"}}]}
    assert as_prompt({**ABOUT, **tools, "messages": [WHY]}) == {**ABOUT, **tools, "turns": [[WHY]]}
    prompt = {**ABOUT, "prompt": "Why?"}
    assert as_prompt(as_conversation(prompt)) == prompt


def test_prompts_that_the_verifier_cannot_take_are_bad_rows(caplog):
    """Two questions without an answer between them where the template refuses, and what leaves no room to answer."""
    tokenizer = make_tokenizer(LLAMA3, "Why? When? Be brief")
    prompts = [
        {"source": "a", "kind": "b", "turns": [[WHY, WHEN]]},
        {"source": "c", "kind": "b", "prompt": "Why?"},
        {"source": "d", "kind": "b", "turns": [[WHY], [WHEN, WHY]]},
        {"source": "e", "kind": "b", "prompt": "Why? " * 20},
        {"source": "f", "kind": "b", "turns": [[SYSTEM, WHY], [WHEN]]},
    ]
    bad = BadRows("skip")
    found = fitting(prompts, lambda messages, tools: prompt_ids(tokenizer, messages, tools=tools), 30, bad)
    assert [prompt["source"] for prompt in found] == ["c", "f"]
    assert bad.as_dict() == {"too long for the verifier": 1, "unfit for the chat template": 2}
    assert "left out d: unfit for the chat template (the chat template refuses the conversation (roles" in caplog.text
    with pytest.raises(ValueError, match="a: unfit for the chat template"):
        list(fitting(prompts, lambda messages, tools: prompt_ids(tokenizer, messages), 30, BadRows("fail")))
