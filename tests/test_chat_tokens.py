"""What becomes tokens of chat data: templates with their quirks, ends of turns, cuts."""

import logging

import pytest
from conftest import make_verifier
from fault_server import serve
from templates import CHATML, LLAMA3, QWEN3, R1, make_tokenizer
from test_chat_data import NOW, SO, TEXT, WHEN, WHY, said

from drafter import answers
from drafter.answers import Store
from drafter.config import ServerConfig
from drafter.data.rows import Cuts, RowMaker, make_rows, rows_and_cuts
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.authored import Authors
from drafter.regenerate.conversation import OpenConversation, origin_of
from drafter.regenerate.local import LocalAnswerer
from drafter.regenerate.server import ServerAnswerer
from drafter.verifier import Verifier, tiny
from drafter.verifier.chat import answer_ids, prompt_ids, render, spoken, template_hash, turn_end


def test_a_thought_that_the_prompt_opens_is_the_answers(tmp_path):
    """DeepSeek-R1: the history is written without thoughts, the prompt ends in an open one."""
    tokenizer = make_tokenizer(R1, TEXT, end="<|eot_id|>")
    assert tokenizer.decode(turn_end(tokenizer)) == "<|im_end|>"
    apart, inline = said("assistant", "Now", reasoning_content="Hm"), said("assistant", "<think>\nHm\n</think>\n\nNow")
    for last in (apart, inline, said("assistant", "Hm\n</think>\n\nNow")):
        prompt, answer = answer_ids(tokenizer, [WHY, SO, WHEN, last], keep_reasoning=True)
        assert (
            tokenizer.decode(prompt)
            == "<|im_start|>Why<|start_header_id|>So<|im_end|><|im_start|>When<|start_header_id|><think>\n"
        )
        assert prompt == prompt_ids(tokenizer, [WHY, SO, WHEN])
        assert tokenizer.decode(answer) == "Hm\n</think>\n\nNow<|im_end|>"
    for last, keep in ((NOW, True), (apart, False)):
        with pytest.raises(
            ValueError, match=r"messages\[1\]: the chat template opens a thought, and this answer has none"
        ):
            answer_ids(tokenizer, [WHEN, last], keep_reasoning=keep)
    thinking = make_tokenizer(
        QWEN3.replace("assistant\n' }}\n{%- if enable", "assistant\n<think>\n' }}\n{%- if enable"), TEXT
    )
    with pytest.raises(ValueError, match=r"messages\[1\]: the chat template opens a thought, and this answer has none"):
        answer_ids(thinking, [WHEN, NOW], keep_reasoning=True)


def test_an_empty_thought_is_not_supervised():
    """Qwen3 puts one before an answer without a thought; a verifier that thinks writes none."""
    tokenizer = make_tokenizer(QWEN3, TEXT)
    (row,) = Authors(tokenizer, 100, keep_reasoning=True, context=500).rows(
        {"source": "", "kind": "", "messages": [WHY, SO]}
    )
    made = RowMaker(tokenizer, True, len(tokenizer), 500)("row", row)
    assert tokenizer.decode(made.answer) == "So<|im_end|>"
    ids, (span,) = render(tokenizer, [WHY, SO], keep_reasoning=True)
    assert (made.ids, made.spans) == (ids[: span[1]], (span,))
    assert "<think>\n\n</think>" in tokenizer.decode(made.ids)


def test_thoughts_between_special_tokens_stay_apart_in_the_next_turn():
    tokenizer = make_tokenizer(QWEN3, TEXT, special_thoughts=True)
    ids = tokenizer.encode("<think>\nHm\n</think>\n\nSo<|im_end|>", add_special_tokens=False)
    assert spoken(tokenizer, ids) == "<think>\nHm\n</think>\n\nSo"
    assert spoken(tokenizer, ids[:-1]) == "<think>\nHm\n</think>\n\nSo"
    conversation = OpenConversation("", "", [WHY], later=[[WHEN]])
    conversation.add(ids, "stop", spoken(tokenizer, ids))
    text = tokenizer.decode(prompt_ids(tokenizer, conversation.messages))
    assert text == tokenizer.decode(prompt_ids(tokenizer, [WHY, SO, WHEN]))


def test_another_chat_template_is_refused(tmp_path):
    """Edited behind `regenerate`: prompts would be other tokens than those that were answered."""
    verifier = make_verifier("llama")
    tokenizer = make_tokenizer(CHATML, TEXT)
    before = origin_of(tokenizer)
    tokenizer.chat_template = CHATML.replace("Be kind", "Be brief")
    edited = origin_of(tokenizer)
    assert before["tokenizer"] == edited["tokenizer"]
    with pytest.raises(ValueError, match=r"made with another chat template \(.*\), in which prompts are other tokens"):
        answers.check_origin(tmp_path, before, "", edited["tokenizer"], edited["template"])
    answers.check_origin(tmp_path, before, "", before["tokenizer"], before["template"])
    answers.check_origin(tmp_path, {}, "", edited["tokenizer"], edited["template"])  # of an older version
    made = {"answered_by": "authors", **before}, {"server_model": "m", **before}, LocalAnswerer(verifier, 8, 4).origin
    assert all({"tokenizer", "template"} <= origin.keys() for origin in made)
    cut = make_tokenizer(CHATML, TEXT)
    cut.backend_tokenizer.pre_tokenizer = None  # the same vocabulary, other tokens
    assert template_hash(cut) != before["template"]
    assert template_hash(make_tokenizer(None, TEXT)) is None


def test_rows_that_lose_their_answer_to_the_cut_are_counted_and_named(caplog):
    verifier = make_verifier("llama")
    known = {"kind": "", "messages": None, "tools": None, "stop": "stop"}
    made = [
        {**known, "source": f"{n}.py", "prompt": "x" * n, "answer_ids": list(range(5, 15))} for n in (5, 60, 20, 70, 26)
    ]
    base = len(verifier.chat_ids(""))
    with caplog.at_level(logging.WARNING):
        rows, cuts = rows_and_cuts(made, verifier, base + 31)
    assert cuts == Cuts(looked_at=5, left_out=2, cut=1, limit=base + 31)
    assert [row.source for row in rows] == ["5.py", "20.py", "26.py"]
    assert (
        f"data.sequence_length={base + 31}: 2 of 5 rows have no room for their answer and are left out" in caplog.text
    )
    assert f"the first of '60.py' ({base + 70} tokens)" in caplog.text
    assert "1 of 5 rows lose a part of it, the first of '26.py'" in caplog.text


def test_rows_end_where_the_verifier_reads_no_further(caplog):
    model, tokenizer = tiny.build("llama")
    model.config.max_position_embeddings = 64
    row = {"source": "a", "kind": "", "prompt": "x" * 20, "messages": None, "tools": None, "answer_ids": [5] * 90}
    with caplog.at_level(logging.WARNING):
        (made,) = make_rows([row], Verifier(model, tokenizer), 512)
    assert len(made.ids) == 64
    assert "data.sequence_length=64: 1 of 1 rows lose a part of it" in caplog.text


def test_authors_are_read_as_far_as_the_verifier_reads():
    tokenizer = make_tokenizer(LLAMA3, TEXT, end="<|eot_id|>")
    conversation = {"source": "", "kind": "", "messages": [WHY, SO, WHEN, NOW]}

    def rows(context):
        return [
            (len(row["answer_ids"]), row["stop"]) for row in Authors(tokenizer, 100, True, context).rows(conversation)
        ]

    first, second = (len(prompt_ids(tokenizer, conversation["messages"][:turn])) for turn in (1, 3))
    assert rows(second + 2) == [(2, "stop"), (2, "stop")]
    assert rows(second + 1) == [(2, "stop")]
    with pytest.raises(ValueError, match=rf"too long for the verifier \({first} tokens, it reads {first + 1}\)"):
        rows(first + 1)


def test_an_answer_ends_where_its_template_ends_a_turn():
    """The model's end of text is another token: without the template's, an answer would run on behind its turn."""
    model, tokenizer = tiny.build("llama")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    tokenizer.eos_token = "<|mask|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert turn_end(tokenizer) == end != tokenizer.eos_token_id
    assert Verifier(model, tokenizer).stop_ids == tuple(sorted((end, tokenizer.eos_token_id)))
    tokenizer.chat_template = None
    assert Verifier(model, tokenizer).stop_ids == (tokenizer.eos_token_id,)


def ask(tmp_path, reply, tokenizer, **settings):
    """The rows of a server's answer to "Why"."""
    with serve(lambda body: len(prompt_ids(tokenizer, body["messages"])), Why=[reply]) as server:
        given = ServerConfig(url=server.url, model="m", retries=0, **settings)
        answerer = ServerAnswerer(given, tokenizer, 99, first_wait=0.01)
        store = Store(tmp_path / "made", answerer.origin)
        answer_all(answerer, lambda: Drawn([{"source": "", "kind": "", "prompt": "Why"}]), store)
    return answers.read(tmp_path / "made")[0]


def test_a_server_is_held_to_the_ids_of_its_prompt(tmp_path):
    """As many tokens are not the same tokens."""
    tokenizer = make_tokenizer(R1, TEXT, end="<|eot_id|>")
    read = prompt_ids(tokenizer, [WHY])
    written = tokenizer.encode("Hm\n</think>\n\nSo<|im_end|>", add_special_tokens=False)
    reply = {"reply": {"prompt_token_ids": read}, "choice": {"token_ids": written}}
    (row,) = ask(tmp_path, reply, tokenizer, token_ids=True)
    assert row["answer_ids"] == written
    reply["reply"]["prompt_token_ids"] = [*read[:2], read[2] + 1, *read[3:]]
    with pytest.raises(ValueError, match=r"model='m': reads token 2 of a prompt otherwise than the verifier's chat"):
        ask(tmp_path / "other", reply, tokenizer, token_ids=True)


def test_text_without_its_special_thoughts_is_no_answer(tmp_path):
    tokenizer = make_tokenizer(QWEN3, TEXT, special_thoughts=True)
    with pytest.raises(ValueError, match=r"data\.server\.token_ids=False: <think> is a special token"):
        ServerAnswerer(ServerConfig(url="http://x", model="m"), tokenizer, 9)
    ServerAnswerer(ServerConfig(url="http://x", model="m"), tokenizer, 9, keep_reasoning=False)
    ServerAnswerer(ServerConfig(url="http://x", model="m", token_ids=True), tokenizer, 9)
