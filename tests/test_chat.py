"""Conversations in chat templates: which tokens an assistant writes, against tokens written out by hand."""

import pytest
from conftest import make_verifier
from templates import CHATML, CHATML_TAGGED, LLAMA3, QWEN3, make_tokenizer

from drafter.verifier.chat import answer_ids, prompt_ids, render, user_header, user_turns


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def tokens_of(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


SYSTEM = said("system", "Be brief")
ONE = [said("user", "Hi there"), said("assistant", "Hello you")]
TWO = [*ONE, said("user", "Why"), said("assistant", "Because")]
THOUGHT = [
    said("user", "Why"),
    said("assistant", "Because", reasoning_content="Well"),
    said("user", "Hi there"),
    said("assistant", "Hello you", reasoning_content="A greeting"),
]
CALL = {"type": "function", "function": {"name": "clock", "arguments": {}}}
TOOLS = [
    said("user", "Why"),
    said("assistant", "", tool_calls=[CALL]),
    said("tool", "Noon"),
    said("assistant", "Because"),
]
TEXT = "Hi there Hello you Why Because Be brief Well A greeting A clock Noon clock"
MADE = {name: make_tokenizer(template, TEXT) for name, template in (("chatml", CHATML), ("qwen3", QWEN3))}
MADE["tagged"] = make_tokenizer(CHATML_TAGGED, TEXT)
MADE["llama3"] = make_tokenizer(LLAMA3, TEXT, end="<|eot_id|>")

IM, END, NL = "<|im_start|>", "<|im_end|>", "\n"
HEAD, HEAD_END, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
KIND = [IM, "system", NL, "Be", " kind", END, NL]
QUESTION = [IM, "user", NL, "Hi", " there", END, NL, IM, "assistant", NL]
WHY = [IM, "user", NL, "Why", END, NL, IM, "assistant", NL]
BRIEF = [IM, "system", NL, "Be", " brief", END, NL]
HELLO, BECAUSE = ["Hello", " you", END, NL], ["Because", END, NL]
LLAMA_ONE = [
    *["<|begin_of_text|>", HEAD, "user", HEAD_END, "\n\n", "Hi", " there", EOT],
    *[HEAD, "assistant", HEAD_END, "\n\n", "Hello", " you", EOT],
]
LLAMA_MORE = [HEAD, "user", HEAD_END, "\n\n", "Why", EOT, HEAD, "assistant", HEAD_END, "\n\n", "Because", EOT]
NO_THOUGHT = ["<think>", "\n\n", "</think>", "\n\n"]


@pytest.mark.parametrize(
    ("name", "messages", "tokens", "spans"),
    [
        ("chatml", ONE, [*KIND, *QUESTION, *HELLO], [(17, 20)]),
        ("chatml", [SYSTEM, *ONE], [*BRIEF, *QUESTION, *HELLO], [(17, 20)]),
        ("chatml", TWO, [*KIND, *QUESTION, *HELLO, *WHY, *BECAUSE], [(17, 20), (30, 32)]),
        ("tagged", ONE, [*QUESTION, *HELLO], [(10, 13)]),
        ("tagged", [SYSTEM, *TWO], [*BRIEF, *QUESTION, *HELLO, *WHY, *BECAUSE], [(17, 20), (30, 32)]),
        ("llama3", ONE, LLAMA_ONE, [(12, 15)]),
        ("llama3", TWO, [*LLAMA_ONE, *LLAMA_MORE], [(12, 15), (25, 27)]),
        ("qwen3", ONE, [*QUESTION, *NO_THOUGHT, *HELLO], [(14, 17)]),
        (
            "qwen3",
            THOUGHT[2:],
            [*QUESTION, "<think>", NL, "A", " greeting", NL, "</think>", "\n\n", *HELLO],
            [(10, 20)],
        ),
    ],
)
def test_spans_are_what_the_assistant_writes(name, messages, tokens, spans):
    ids, found = render(MADE[name], messages, keep_reasoning=True)
    assert tokens_of(MADE[name], ids) == tokens
    assert found == spans


def test_tags_and_rendering_in_steps_agree():
    untagged = make_tokenizer(CHATML_TAGGED.replace("{% generation %}", "").replace("{% endgeneration %}", ""), TEXT)
    for messages in (ONE, TWO, [SYSTEM, *TWO]):
        assert render(MADE["tagged"], messages, keep_reasoning=True) == render(untagged, messages, keep_reasoning=True)


def test_an_end_of_turn_behind_the_tags_is_written_too():
    template = CHATML_TAGGED.replace(
        "+ '<|im_end|>\n' }}{% endgeneration %}", "}}{% endgeneration %}{{- '<|im_end|>\n' }}"
    )
    assert render(make_tokenizer(template, TEXT), TWO, keep_reasoning=True) == render(
        MADE["tagged"], TWO, keep_reasoning=True
    )


def test_tags_that_fall_inside_a_token_are_not_believed():
    """The header's newline and the one of the tags are one token: inexact, and said so."""
    template = CHATML_TAGGED.replace(
        "{{- message.content + '<|im_end|>\n' }}{% endgeneration %}",
        "{{- '\n' + message.content + '<|im_end|>\n' }}{% endgeneration %}",
    )
    with pytest.raises(ValueError, match=r"messages\[1\]: a token spans where it begins or ends"):
        render(make_tokenizer(template, TEXT), ONE, keep_reasoning=True)


def test_answers_behind_which_reasoning_is_dropped_need_rows_of_their_own():
    """Qwen3 writes an answer without its reasoning once another question follows."""
    with pytest.raises(ValueError, match=r"messages\[1\]: the chat template writes it otherwise.*a row of each answer"):
        render(MADE["qwen3"], THOUGHT, keep_reasoning=True)
    prompt, answer = answer_ids(MADE["qwen3"], THOUGHT, keep_reasoning=True)
    assert tokens_of(MADE["qwen3"], prompt) == [*WHY, *BECAUSE, *QUESTION]
    thought = ["<think>", NL, "A", " greeting", NL, "</think>", "\n\n"]
    assert tokens_of(MADE["qwen3"], answer) == [*thought, "Hello", " you", END]
    assert prompt == prompt_ids(MADE["qwen3"], THOUGHT[:-1])


@pytest.mark.parametrize("inline", [False, True], ids=["apart", "in the content"])
def test_reasoning_is_dropped_by_the_switch(inline):
    messages = THOUGHT[2:]
    if inline:
        messages = [messages[0], said("assistant", "<think>\nA greeting\n</think>\n\nHello you")]
    prompt, answer = answer_ids(MADE["qwen3"], messages, keep_reasoning=False)
    assert tokens_of(MADE["qwen3"], prompt) == [*QUESTION, *NO_THOUGHT]  # the template's word for: do not think
    assert tokens_of(MADE["qwen3"], answer) == ["Hello", " you", END]
    assert prompt == prompt_ids(MADE["qwen3"], messages[:1], keep_reasoning=False)
    assert tokens_of(MADE["chatml"], answer_ids(MADE["chatml"], messages, keep_reasoning=False)[1]) == HELLO[:-1]


def test_reasoning_that_a_template_would_lose_is_not_lost_in_silence():
    for name in ("chatml", "tagged"):
        with pytest.raises(ValueError, match=r"messages\[1\]: the chat template does not write its reasoning here"):
            render(MADE[name], THOUGHT[:2], keep_reasoning=True)


def test_tool_turns_and_tools_are_the_templates():
    tools = [{"type": "function", "function": {"name": "clock", "description": "", "parameters": {}}}]
    known = [IM, "system", NL, "tools", NL, "clock", END, NL]
    call = ["<tool_call>", NL, "clock", NL, "</tool_call>", END]
    prompt, answer = answer_ids(MADE["qwen3"], TOOLS[:2], keep_reasoning=True, tools=tools)
    assert tokens_of(MADE["qwen3"], prompt) == [*known, *WHY]
    assert tokens_of(MADE["qwen3"], answer) == [*NO_THOUGHT, *call]
    prompt, answer = answer_ids(MADE["qwen3"], TOOLS, keep_reasoning=True, tools=tools)
    result = [IM, "user", NL, "<tool_response>", NL, "Noon", NL, "</tool_response>", END, NL, IM, "assistant", NL]
    assert tokens_of(MADE["qwen3"], prompt) == [*known, *WHY, *call, NL, *result]
    assert tokens_of(MADE["qwen3"], answer) == [*NO_THOUGHT, "Because", END]


def test_a_prompt_and_its_answer_are_the_whole_conversation():
    for name in ("chatml", "tagged", "llama3"):
        ids, spans = render(MADE[name], TWO, keep_reasoning=True)
        for turn, (start, end) in zip((1, 3), spans, strict=True):
            prompt, answer = answer_ids(MADE[name], TWO[: turn + 1], keep_reasoning=True)
            assert (prompt, answer) == (ids[:start], ids[start:end])
            assert prompt == prompt_ids(MADE[name], TWO[:turn])


def test_conversations_that_a_template_refuses_are_named():
    twice = [said("user", "Hi"), said("user", "Why")]
    for make in (lambda: prompt_ids(MADE["llama3"], twice), lambda: render(MADE["llama3"], twice, keep_reasoning=True)):
        with pytest.raises(ValueError, match=r"the chat template refuses the conversation \(roles must alternate\)"):
            make()
    with pytest.raises(ValueError, match=r"messages\[0\]: is no answer to anything"):
        render(MADE["chatml"], ONE[1:], keep_reasoning=True)
    with pytest.raises(ValueError, match=r"messages\[0\]: is no answer to anything"):
        answer_ids(MADE["chatml"], ONE[:1], keep_reasoning=True)


def test_blanks_that_merge_with_the_header_are_named():
    with pytest.raises(ValueError, match=r"messages\[1\]: a token spans where it begins or ends; strip the blanks"):
        render(MADE["chatml"], [ONE[0], said("assistant", "\nHello you")], keep_reasoning=True)


def test_a_conversation_is_cut_at_its_answers():
    assert user_turns([SYSTEM, *TWO]) == [[SYSTEM, TWO[0]], [TWO[2]]]
    assert user_turns([*ONE, TWO[2]]) == [[TWO[0]], [TWO[2]]]
    assert user_turns(TOOLS) == [TOOLS[:3]]  # a call and its result are context, the answer to them is anew
    assert user_turns(TOOLS[:2]) == [TOOLS[:1]]
    assert user_turns([SYSTEM, ONE[1], *ONE]) == [[SYSTEM, ONE[0]]]
    assert user_turns([SYSTEM]) == []
    assert user_turns([said("user", "Hi"), said("user", "Why")]) == [[said("user", "Hi"), said("user", "Why")]]


def test_the_users_header_is_what_a_user_writes_behind():
    assert tokens_of(MADE["chatml"], user_header(MADE["chatml"])) == [*KIND, IM, "user", NL]
    assert tokens_of(MADE["llama3"], user_header(MADE["llama3"])) == LLAMA_ONE[:5]
    with pytest.raises(ValueError, match="does not write the user's turn as it is"):
        user_header(make_tokenizer("{{ messages[0].content | upper }}{{ messages[0].content }}x", TEXT))


def test_the_verifiers_own_prompt_is_one_users_turn():
    verifier = make_verifier("llama")
    assert verifier.chat_ids("hi") == prompt_ids(verifier.tokenizer, [said("user", "hi")])
    assert verifier.chat_ids(TWO[:3]) == prompt_ids(verifier.tokenizer, TWO[:3])
