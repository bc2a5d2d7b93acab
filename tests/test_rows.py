"""Rows of training: the template, spans, the split and padding."""

import pytest
import torch
from conftest import make_verifier

from drafter.data.rows import Row, make_rows, one_answer_each, pad, part_of, split, validation_and_test


def answer(prompt="hi", ids=(5, 6, 7), source="a.py"):
    return {"source": source, "kind": "write", "prompt": prompt, "answer_ids": list(ids), "stop": "length"}


def row(ids, start=1, source=""):
    return Row(list(ids), ((start, len(ids)),), source, "write")


def test_rows_are_the_template_then_the_answer():
    verifier = make_verifier("llama")
    (made,) = make_rows([answer()], verifier, 64)
    prompt = verifier.chat_ids("hi")
    assert made.ids == [*prompt, 5, 6, 7]
    assert made.start == len(prompt)
    assert made.answer == [5, 6, 7]
    assert (made.source, made.kind) == ("a.py", "write")


def test_a_row_may_hold_several_answers():
    talk = Row(list(range(20, 32)), ((2, 5), (7, 11)), "a.py", "chat")
    assert talk.start == 2
    assert talk.answer == [22, 23, 24, 27, 28, 29, 30]
    supervised = pad([talk, row([9] * 14, start=13)]).supervised
    assert supervised[0].nonzero()[:, 0].tolist() == [2, 3, 4, 7, 8, 9, 10]
    assert one_answer_each([talk, row([1, 2, 3])]) == [
        Row(list(range(20, 25)), ((2, 5),), "a.py", "chat"),
        Row(list(range(20, 31)), ((7, 11),), "a.py", "chat"),
        row([1, 2, 3]),
    ]


def test_a_cut_keeps_the_answers_that_have_something_to_predict():
    talk = Row(list(range(12)), ((2, 5), (7, 11)), "a.py", "chat")
    spans = {length: cut.spans if (cut := talk.cut(length)) else None for length in (12, 10, 9, 8, 7, 4, 3)}
    assert spans == {
        12: ((2, 5), (7, 11)),
        10: ((2, 5), (7, 10)),
        9: ((2, 5), (7, 9)),
        8: ((2, 5),),
        7: ((2, 5),),
        4: ((2, 4),),
        3: None,
    }
    assert talk.cut(4).ids == [0, 1, 2, 3]


def test_rows_are_cut_at_the_sequence_length():
    verifier = make_verifier("llama")
    length = len(verifier.chat_ids("hi"))
    (made,) = make_rows([answer(ids=range(3, 13))], verifier, length + 4)
    assert made.answer == [3, 4, 5, 6]


def test_rows_without_an_anchor_and_a_token_to_predict_are_left_out():
    verifier = make_verifier("llama")
    length = len(verifier.chat_ids("hi"))
    kept = make_rows([answer(), answer(ids=[5]), answer(ids=[]), answer(prompt="hi" * 9)], verifier, length + 2)
    assert [len(one.ids) for one in kept] == [length + 2]
    with pytest.raises(ValueError, match=rf"data\.sequence_length={length + 1}: no row has room for its answer"):
        make_rows([answer()], verifier, length + 1)


@pytest.mark.parametrize("ids", [[5, 288], [-1, 5]], ids=str)
def test_answers_of_another_vocabulary_are_refused(ids):
    with pytest.raises(ValueError, match="row 1 holds an id outside the verifier's vocabulary of 288"):
        make_rows([answer(), answer(ids=ids)], make_verifier("llama"), 64)


def test_split_never_divides_a_document():
    rows = [row([number, 1, 2], source=f"{number % 40}.py") for number in range(400)]
    training, held_out = split(rows, 0.3)
    assert len(training) + len(held_out) == 400
    assert not {one.source for one in training} & {one.source for one in held_out}
    assert 5 <= len({one.source for one in held_out}) <= 20


def test_split_of_a_document_is_its_own():
    """Adding rows moves no other row to the other side."""
    rows = [row([1, 2], source=f"{number}.py") for number in range(50)]
    sides = {one.source for one in split(rows, 0.3)[0]}
    assert {one.source for one in split(rows[:25], 0.3)[0]} == sides & {one.source for one in rows[:25]}


def test_rows_that_choose_are_of_other_documents_than_those_that_tell():
    rows = [row([number, 1, 2], source=f"{number % 40}.py") for number in range(400)]
    training, held_out = split(rows, 0.3)
    validation, test = validation_and_test(held_out, 0.3, 1000, 1000)
    documents = [{one.source for one in part} for part in (training, validation, test)]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 40
    assert {len(documents[1]), len(documents[2])} <= set(range(2, 13))
    assert documents == [
        {name for name in set.union(*documents) if part_of(name, 0.3) == part}
        for part in ("training", "validation", "test")
    ]
    assert validation_and_test(held_out, 0.3, 2, 3) == (validation[:2], test[:3])
    few = [one for one in held_out if one.source == held_out[0].source]
    with pytest.raises(ValueError, match=r"data\.validation_share=0\.3: of the documents held out, \d+ rows are for"):
        validation_and_test(few, 0.3, 2, 3)


def test_a_split_with_an_empty_side_is_refused():
    with pytest.raises(ValueError, match=r"data\.validation_share=0\.3: leaves . training and . held-out rows"):
        split([row([1, 2], source="a.py")] * 5, 0.3)


def test_padding_is_on_the_right_and_never_supervised():
    batch = pad([row([5, 6, 7, 8], start=2), row([9, 3], start=1)])
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.supervised.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert batch.to(torch.device("cpu")).ids.equal(batch.ids)
