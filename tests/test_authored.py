"""Answers of a source's authors as training rows."""

import json

import pytest
from conftest import ROOT, make_verifier
from templates import QWEN3, make_tokenizer

from drafter import answers
from drafter.__main__ import main
from drafter.data.rows import make_rows
from drafter.regenerate.authored import Authors
from drafter.verifier.chat import render


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TWO = [said("user", "Why?"), said("assistant", " So.\n"), said("user", "When?"), said("assistant", "Now.")]


def take(tmp_path, records, *overrides):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = [f"data.sources=[{{kind: file, path: {path}}}]", "data.answered_by=authors", *overrides]
    main(["regenerate", str(ROOT / "recipes/tiny.yaml"), *words, "--out", str(tmp_path / "folder")])
    return answers.read(tmp_path / "folder")


def test_every_answer_is_a_row_behind_the_turns_before_it(tmp_path):
    greeted = [TWO[1], said("user", "How?"), said("assistant", "So.")]
    rows, manifest = take(tmp_path, [{"messages": TWO}, {"messages": TWO[:1]}, {"messages": greeted}])
    assert [row["source"] for row in rows] == ["mine.jsonl:1", "mine.jsonl:1", "mine.jsonl:3"]
    assert {row["stop"] for row in rows} == {"stop"}
    assert manifest["answered_by"] == "authors"
    assert manifest["failed"] == {"no answer": 1}
    verifier = make_verifier("llama")
    made = make_rows(rows, verifier, 512)
    stripped = [*TWO[:1], said("assistant", "So.")]
    whole, spans = render(verifier.tokenizer, stripped, keep_reasoning=True)
    assert (made[0].ids, made[0].spans) == (whole[: spans[0][1]], tuple(spans))
    assert [verifier.tokenizer.decode(row.answer) for row in made] == ["So.<|end|>", "Now.<|end|>", "So.<|end|>"]


def test_long_answers_are_cut(tmp_path):
    rows, _ = take(tmp_path, [{"messages": [TWO[0], said("assistant", "x" * 40)]}], "data.max_new_tokens=8")
    assert [(len(row["answer_ids"]), row["stop"]) for row in rows] == [(8, "length")]


def test_answers_in_another_tokenizer_are_refused(tmp_path):
    _, manifest = take(tmp_path, [{"messages": TWO}])
    with pytest.raises(ValueError, match="their authors answered in another tokenizer's tokens"):
        answers.check_origin(tmp_path, manifest, "any", "another")
    answers.check_origin(tmp_path, manifest, "any", manifest["tokenizer"])


def test_each_answer_keeps_its_own_reasoning():
    """Qwen3's template drops the reasoning of earlier answers, so that only a row each is exact."""
    tokenizer = make_tokenizer(QWEN3, "Why So When Now Well Hm")
    messages = [said("user", "Why"), said("assistant", "So", reasoning_content="Well")]
    messages += [said("user", "When"), said("assistant", "Now", reasoning_content="Hm")]
    conversation = {"source": "a", "kind": "b", "messages": messages}
    first, second = Authors(tokenizer, 100, keep_reasoning=True, context=500).rows(conversation)
    assert tokenizer.decode(first["answer_ids"]) == "<think>\nWell\n</think>\n\nSo<|im_end|>"
    assert tokenizer.decode(second["answer_ids"]) == "<think>\nHm\n</think>\n\nNow<|im_end|>"
    assert json.loads(second["messages"]) == messages[:3]
    bare = Authors(tokenizer, 100, keep_reasoning=False, context=500).rows(conversation)
    assert [tokenizer.decode(row["answer_ids"]) for row in bare] == ["So<|im_end|>", "Now<|im_end|>"]
