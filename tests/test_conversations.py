"""Conversations of all sources, each question once, and as the verifier is asked them."""

import json

from drafter.data.conversations import as_conversation, as_prompt, gather
from drafter.sources import BadRows, File, SelfPrompting

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


def test_prompts_end_where_an_answer_is_due():
    assert as_prompt({**ABOUT, "messages": [WHY, SO]}) == {**ABOUT, "prompt": "Why?"}
    assert as_prompt({**ABOUT, "messages": [WHY, SO, WHEN, SO]}) == {**ABOUT, "messages": [WHY, SO, WHEN]}
    assert as_prompt({**ABOUT, "messages": [SYSTEM, WHY]}) == {**ABOUT, "messages": [SYSTEM, WHY]}
    assert as_prompt({**ABOUT, "messages": [WHY, CALL, NOON, SO]}) == {**ABOUT, "messages": [WHY, CALL, NOON]}
    tools = {"tools": [{"type": "function", "function": {"name": "clock"}}]}
    assert as_prompt({**ABOUT, **tools, "messages": [WHY]}) == {**ABOUT, **tools, "messages": [WHY]}


def test_prompts_are_conversations_again():
    for prompt in ({**ABOUT, "prompt": "Why?"}, {**ABOUT, "messages": [SYSTEM, WHY]}):
        assert as_prompt(as_conversation(prompt)) == prompt
