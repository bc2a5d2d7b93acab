"""Answers on disk: one file, or a folder of shards; round trip, damage, answers of another verifier."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from drafter import answers
from drafter.answers import Store, check_origin, digest, open_answers

ORIGIN = {"verifier": "abc", "recipe": {"seed": 0, "data": {"prompts": {"write": 7}}}}


def answer(number, **changes):
    row = {
        "source": f"{number}.py",
        "kind": "write",
        "prompt": f"number {number}\n\u00fc",
        "messages": None,
        "tools": None,
        "answer_ids": list(range(number)),
        "stop": "stop",
    }
    return row | changes


def prompt(number):
    return {"source": f"{number}.py", "kind": "write", "prompt": f"number {number}\n\u00fc"}


def make(path, count=7, shard_prompts=3):
    """Answers to `count` prompts, shard by shard."""
    with Store(path, ORIGIN, shard_prompts) as store:
        store.draw((prompt(number) for number in range(count)), {})
        for shard in store.unfinished():
            for number in reversed(shard.missing):
                shard.add(number, [answer(shard.first + number)])
            shard.finish()
        return store.finish()


class Killed(BaseException):
    """Stands for a signal: no handler of errors may catch it."""


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "answers.parquet"
    turns = json.dumps([{"role": "system", "content": "\u00e9"}, {"role": "user", "content": "hi"}])
    rows = [*(answer(number) for number in range(5)), answer(5, prompt=None, messages=turns)]
    answers.write(path, rows, ORIGIN)
    assert answers.read(path) == (rows, ORIGIN)
    assert [each.name for each in path.parent.iterdir()] == ["answers.parquet"]


def test_files_without_conversations_stay_readable(tmp_path):
    old = [
        {key: value for key, value in answer(number).items() if key not in ("messages", "tools")} for number in range(3)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(old), tmp_path / "old.parquet")
    assert answers.read(tmp_path / "old.parquet") == ([answer(number) for number in range(3)], {})


def test_writing_replaces_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "answers.parquet"
    answers.write(path, [answer(1)], ORIGIN)

    def fail(*_, **__):
        raise Killed

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(Killed):
        answers.write(path, [answer(2)], ORIGIN)
    assert answers.read(path)[0] == [answer(1)]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_off_is_refused(tmp_path, keep):
    path = tmp_path / "answers.parquet"
    answers.write(path, [answer(number) for number in range(50)], ORIGIN)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"^data\.answers='.*': cut off or damaged \(.*\); make it again$"):
        answers.read(path)


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such file; make it with `drafter regenerate RECIPE`"):
        answers.read(tmp_path / "none.parquet")
    answers.write(tmp_path / "empty.parquet", [], ORIGIN)
    with pytest.raises(ValueError, match=r"empty\.parquet': holds no rows; check data\.sources"):
        answers.read(tmp_path / "empty.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "kind": ["b"]}), tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns \['source', 'prompt', 'answer_ids', 'stop'\]"):
        answers.read(tmp_path / "foreign.parquet")


def test_a_folder_and_a_file_hold_the_same(tmp_path):
    summary = make(tmp_path / "folder")
    assert make(tmp_path / "file.parquet") == summary
    assert summary == ORIGIN | {"prompts": 7, "rows": 7, "tokens": 21, "failed": {}, "bad_rows": {}}
    assert answers.read(tmp_path / "folder") == ([answer(number) for number in range(7)], summary)
    assert answers.read(tmp_path / "file.parquet") == answers.read(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.parquet", "folder"]


def test_shards_are_read_one_by_one(tmp_path):
    make(tmp_path / "folder")
    found = open_answers(tmp_path / "folder")
    assert [path.name for path in found.files] == [f"shard-0000{number}.parquet" for number in range(3)]
    assert found.rows == (3, 3, 1)
    assert found.load(1) == [answer(number) for number in (3, 4, 5)]
    make(tmp_path / "file.parquet")
    assert open_answers(tmp_path / "file.parquet").rows == (7,)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"!" + content[1:], None])
def test_a_damaged_shard_is_named_with_its_remedy(tmp_path, damage):
    folder = tmp_path / "folder"
    make(folder)
    shard = folder / "shard-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(damage(content)) if damage else shard.unlink()
    with pytest.raises(ValueError, match=r"^data\.answers='.*shard-00001\.parquet': .*; delete this file and run `dr"):
        answers.read(folder)
    assert open_answers(folder).load(0) == [answer(number) for number in range(3)]
    if damage:
        with pytest.raises(ValueError, match=r"shard-00001\.parquet': cut off or damaged \(its checksum is not"):
            Store(folder, ORIGIN)
        shard.unlink()
    make_missing(folder)
    assert shard.read_bytes() == content


def make_missing(folder):
    with Store(folder, ORIGIN) as store:
        for shard in store.unfinished():
            for number in shard.missing:
                shard.add(number, [answer(shard.first + number)])
            shard.finish()
        store.finish()


def test_an_unfinished_folder_is_no_training_data(tmp_path):
    with Store(tmp_path / "folder", ORIGIN, 3) as store:
        store.draw((prompt(number) for number in range(7)), {})
    with pytest.raises(ValueError, match=r"unfinished \(0 of 3 shards\); go on with `drafter regenerate"):
        answers.read(tmp_path / "folder")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"other': no folder of answers \(it lacks manifest\.json\)"):
        answers.read(tmp_path / "other")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    make(tmp_path / "folder")
    (tmp_path / "folder" / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json': (damaged|format 2, this version reads 1)"):
        answers.read(tmp_path / "folder")


def test_answers_of_another_verifier_or_tokenizer_are_refused(tmp_path):
    check_origin(tmp_path, {}, "abc", "tok")
    check_origin(tmp_path, {"verifier": "abc"}, "abc", "tok")
    check_origin(tmp_path, {"server_model": "big", "tokenizer": "tok"}, "abc", "tok")
    with pytest.raises(ValueError, match=r"written by another verifier \(xyz, not abc\); make answers with"):
        check_origin(tmp_path, {"verifier": "xyz"}, "abc", "tok")
    with pytest.raises(ValueError, match=r"big answered in another tokenizer's tokens \(kot, not tok\); make answers"):
        check_origin(tmp_path, {"server_model": "big", "tokenizer": "kot"}, "abc", "tok")


def test_digest_sees_content_and_order():
    one, two = {"a": 1, "b": 2}, {"b": 3}
    assert digest([one, two]) == digest([{"b": 2, "a": 1}, two])
    assert len({digest(rows) for rows in ([one, two], [two, one], [one], [])}) == 4
