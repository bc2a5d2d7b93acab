"""Draft vocabularies: from training rows, from files that count tokens, in training and in decoding."""

import json

import pytest
from conftest import make_memorising, make_verifier
from test_export_layouts import exported
from tiny_run import RECIPE, write_answers

from drafter.__main__ import main
from drafter.answers import read, write
from drafter.config import load
from drafter.data.counts import draft_vocabulary, most_frequent, read_counts
from drafter.data.rows import make_rows, split
from drafter.training.prepare import prepare, proposed

VERIFIER = ["--verifier", "tiny-llama", "--dtype", "float32"]
ROW = {"source": "a", "kind": "k", "prompt": "p", "messages": None, "tools": None, "stop": "stop"}


@pytest.fixture
def counted(tmp_path):
    """A JSON file of counts, and answers with the same counts."""
    folder = tmp_path / "counted"
    folder.mkdir()
    (folder / "counts.json").write_text(json.dumps({"7": 3, "5": 1, "9": 1, "200": 0}))
    write(folder / "answers.parquet", [{**ROW, "answer_ids": [7, 9, 7]}, {**ROW, "answer_ids": [7, 5]}], {})
    return folder


def test_the_most_frequent_tokens_are_taken_and_of_equals_the_lower_ids():
    counts = {7: 3, 9: 1, 5: 1, 200: 0}
    assert most_frequent(counts, None) == most_frequent(counts, 99) == [5, 7, 9]
    assert most_frequent(counts, 2) == [5, 7]
    assert most_frequent(counts, 1) == [7]


@pytest.mark.parametrize("name", ["counts.json", "answers.parquet"])
def test_tokens_are_counted_in_files(counted, name):
    assert {token: n for token, n in read_counts(counted / name).items() if n} == {5: 1, 7: 3, 9: 1}
    assert draft_vocabulary(str(counted / name), 2, 288) == [5, 7]
    with pytest.raises(ValueError, match="counts token 9, the verifier's ids end at 7; count with its tokenizer"):
        draft_vocabulary(str(counted / name), None, 8)


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": 1}', '{"1": -1}', '{"1": 0}', '{"1": 1.5}', "{}"])
def test_files_that_count_nothing_are_named(tmp_path, content):
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(ValueError, match=r"counts\.json: must hold"):
        read_counts(tmp_path / "counts.json")
    with pytest.raises(ValueError, match=r"other\.json: must hold"):
        read_counts(tmp_path / "other.json")


def test_recipes_name_what_counts(tmp_path, counted, caplog):
    answers = write_answers(tmp_path)

    def asked(words):
        return load(RECIPE, [f"data.answers={answers}", "data.validation_rows=4", f"drafter.vocabulary={words}"])

    rows = make_rows(read(answers)[0], make_verifier("llama"), 512)
    training = split(rows, asked("full").data.validation_share)[0]
    everything = sorted({token for row in training for token in row.answer})
    assert proposed(asked("full"), 288, training, None) == []
    assert proposed(asked("answers"), 288, training, None) == everything
    assert len(set(proposed(asked("5"), 288, training, None)) & set(everything)) == 5
    assert proposed(asked(f"{counted}/answers.parquet:2"), 288, training, None) == [5, 7]
    assert "only" not in caplog.text
    assert proposed(asked("1000"), 288, training, None) == everything
    assert f"drafter.vocabulary=1000: only {len(everything)} tokens occur there; it has those" in caplog.text
    assert prepare(asked(f"{counted}/counts.json")).drafter.vocabulary.tolist() == [5, 7, 9]


def test_decoding_proposes_what_was_counted_and_emits_the_verifiers_tokens(counted, tmp_path, capsys):
    folder = exported(tmp_path / "export", make_memorising("llama"))
    seen = {}
    for words in ("full", f"{counted}/counts.json", None):
        path = tmp_path / "a.json"
        extra = ["--draft-vocabulary", words] if words else []
        main(
            [
                "generate",
                str(folder),
                "What?",
                "--verifier",
                "tiny-llama",
                "--dtype",
                "float32",
                "--json",
                str(path),
                *extra,
            ]
        )
        seen[words] = json.loads(path.read_text())["with drafts"]
    assert len({tuple(one["token_ids"]) for one in seen.values()}) == 1
    assert seen["full"]["accepted"] == seen[None]["accepted"]
    few = seen[f"{counted}/counts.json"]
    drafts = sum(few["accepted"])
    assert drafts < sum(seen["full"]["accepted"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing.json", r"draft-vocabulary='nothing\.json': no such file"),
        ("nothing", "draft-vocabulary='nothing': no such file"),
        ("{}/counts.json:0", "take at least one token"),
    ],
)
def test_what_counts_no_tokens_is_refused_before_the_models_load(counted, tmp_path, words, message, monkeypatch):
    folder = exported(tmp_path / "export", make_memorising("llama"))
    monkeypatch.setattr("drafter.verifier.Verifier.load", lambda *_: pytest.fail("loaded"))
    command = ["generate", str(folder), "What?", *VERIFIER, "--draft-vocabulary", words.format(counted)]
    with pytest.raises(SystemExit, match=message):
        main(command)
