"""Answers in the making: kills at every step, changed recipes, full disks, two processes at once."""

import json

import pytest
from test_answers import ORIGIN, Killed, answer, make, prompt

from drafter import answers
from drafter.answers import Store
from drafter.answers import journal as journals
from drafter.answers import store as stores


def go_on(path, kill_after=None, count=7, shard_prompts=3):
    """One process that answers what is missing and may be killed after some answers; returns what it answered."""
    answered = []
    with Store(path, ORIGIN, shard_prompts) as store:
        if not store.drawn:
            store.draw((prompt(number) for number in range(count)), {"empty": 2})
        for shard in store.unfinished():
            for number in shard.missing:
                if len(answered) == kill_after:
                    raise Killed
                shard.add(number, [answer(shard.first + number)], counted=1)
                answered.append(shard.first + number)
            shard.finish()
        store.finish()
    return answered


@pytest.mark.parametrize("name", ["folder", "file.parquet"])
@pytest.mark.parametrize("kill_after", range(7))
def test_nothing_is_lost_and_nothing_repeated(tmp_path, name, kill_after):
    path = tmp_path / name
    with pytest.raises(Killed):
        go_on(path, kill_after)
    assert go_on(path) == list(range(kill_after, 7))
    rows, manifest = answers.read(path)
    assert rows == [answer(number) for number in range(7)]
    counts = {"prompts": 7, "rows": 7, "tokens": 21, "failed": {}, "bad_rows": {"empty": 2}, "counted": 7}
    assert manifest == ORIGIN | counts
    assert [each.name for each in tmp_path.iterdir()] == [name]
    if path.is_dir():
        assert not [each.name for each in path.iterdir() if not each.name.startswith(("manifest", "prompts", "shard"))]


@pytest.mark.parametrize("step", ["write", "sha256_of", "Manifest.save", "Journal.delete"])
def test_a_kill_while_a_shard_is_finished(tmp_path, monkeypatch, step):
    owner = {"Manifest.save": stores.Manifest, "Journal.delete": journals.Journal}.get(step, stores)
    calls, real = [], getattr(owner, step.split(".")[-1])

    def killed(*arguments):
        calls.append(arguments)
        if step == "Journal.delete" or len(calls) > {"write": 1, "sha256_of": 4, "Manifest.save": 3}[step]:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step.split(".")[-1], killed)
        with pytest.raises(Killed):
            go_on(tmp_path / "folder")
    assert (tmp_path / "folder/shard-00000.parquet").exists()
    go_on(tmp_path / "folder")
    make(tmp_path / "whole")
    assert answers.read(tmp_path / "folder")[0] == answers.read(tmp_path / "whole")[0]


def test_a_kill_while_prompts_are_drawn_draws_them_anew(tmp_path):
    def torn():
        yield from (prompt(number + 100) for number in range(5))
        raise Killed

    with Store(tmp_path / "folder", ORIGIN, 3) as store, pytest.raises(Killed):
        store.draw(torn(), {})
    (tmp_path / "folder/.shard-00000.parquet.12345678.unfinished").write_text("scratch of a killed process")
    assert go_on(tmp_path / "folder") == list(range(7))
    assert not list((tmp_path / "folder").glob(".*"))


def test_prompts_are_drawn_once(tmp_path):
    with pytest.raises(Killed):
        go_on(tmp_path / "folder", kill_after=4)
    with Store(tmp_path / "folder", ORIGIN, 100) as store:  # another size changes nothing that is kept
        assert store.drawn
        assert [store.prompts(number) for number in range(3)] == [
            [prompt(number) for number in range(first, min(first + 3, 7))] for first in (0, 3, 6)
        ]


def test_a_torn_line_is_answered_again(tmp_path):
    with pytest.raises(Killed):
        go_on(tmp_path / "folder", kill_after=5)
    journal = tmp_path / "folder/journal-00001.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    assert go_on(tmp_path / "folder") == [4, 5, 6]
    assert answers.read(tmp_path / "folder")[0] == [answer(number) for number in range(7)]


def test_damage_elsewhere_is_refused_by_name(tmp_path):
    with pytest.raises(Killed):
        go_on(tmp_path / "folder", kill_after=5)
    journal = tmp_path / "folder/journal-00001.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(b"x" + content)
    with pytest.raises(ValueError, match=r"journal-00001\.jsonl': line 1 is damaged; delete this file"):
        go_on(tmp_path / "folder")
    journal.write_bytes(content)
    kept = tmp_path / "folder/prompts-00001.parquet"
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"prompts-00001\.parquet': the kept prompts are missing or changed; delete"):
        go_on(tmp_path / "folder")


def test_another_recipe_is_refused_by_what_changed(tmp_path):
    with pytest.raises(Killed):
        go_on(tmp_path / "folder", kill_after=5)
    other = json.loads(json.dumps(ORIGIN))
    other["recipe"]["data"]["prompts"]["write"], other["recipe"]["temperature"] = 8, 0.7
    named = r"answers of another recipe \(other recipe\.data\.prompts\.write, recipe\.temperature\) are in"
    with pytest.raises(ValueError, match=named):
        Store(tmp_path / "folder", other)
    assert go_on(tmp_path / "folder") == [5, 6]


def test_another_recipe_starts_anew_where_nothing_is_answered(tmp_path):
    """A first attempt that failed before any answer stands in nobody's way."""
    with Store(tmp_path / "folder", {"verifier": "wrong"}, 2) as store:
        store.draw([prompt(number) for number in range(9)], {"bad": 1})
    assert go_on(tmp_path / "folder") == list(range(7))
    assert answers.read(tmp_path / "folder")[1]["verifier"] == "abc"


def test_finished_answers_and_foreign_folders_are_left_alone(tmp_path):
    make(tmp_path / "folder")
    make(tmp_path / "file.parquet")
    for name in ("folder", "file.parquet"):
        with pytest.raises(ValueError, match=r"exists already; delete it, or name another with --out"):
            Store(tmp_path / name, ORIGIN)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.thesis.txt").write_text("")
    with pytest.raises(ValueError, match=r"mine': no folder of answers \(it lacks manifest\.json\); name another"):
        Store(tmp_path / "mine", ORIGIN)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [".thesis.txt"]


def test_two_processes_do_not_mix(tmp_path):
    with Store(tmp_path / "folder", ORIGIN):
        with pytest.raises(ValueError, match=r"another process is making them; wait for it"):
            Store(tmp_path / "folder", ORIGIN)
    Store(tmp_path / "folder", ORIGIN).close()


def test_failures_are_named_and_tried_again_until_the_shard_is_finished(tmp_path):
    with Store(tmp_path / "folder", ORIGIN, 3) as store:
        store.draw((prompt(number) for number in range(4)), {})
        first, last = store.unfinished()
        first.fail(1, "timeout", "after 3 s")
        with pytest.raises(RuntimeError, match="shard 0: 2 prompts have neither answer nor failure"):
            first.finish()
    with Store(tmp_path / "folder", ORIGIN, 3) as store:
        first, last = store.unfinished()
        assert first.missing == [0, 1, 2]
        first.add(1, [answer(1)])
        first.fail(2, "timeout", "after 3 s")
        first.fail(0, "HTTP 500", "oh")
        first.finish()
        last.fail(0, "timeout", "after 4 s")
        last.finish()
        assert store.finish()["failed"] == {"HTTP 500": 1, "timeout": 2}
    assert [(one["prompt"], one["source"], one["detail"]) for one in store.manifest.failures] == [
        (0, "0.py", "oh"),
        (2, "2.py", "after 3 s"),
        (3, "3.py", "after 4 s"),
    ]
    assert answers.read(tmp_path / "folder")[0] == [answer(1)]


def test_without_a_single_answer_nothing_is_finished(tmp_path):
    for _ in range(2):
        with Store(tmp_path / "file.parquet", ORIGIN, 3) as store:
            if not store.drawn:
                store.draw([prompt(0)], {})
            for shard in store.unfinished():
                shard.fail(0, "timeout", "after 3 s")
                shard.finish()
            with pytest.raises(ValueError, match=r"not one prompt was answered \(1 of timeout; after 3 s\)"):
                store.finish()


def test_no_prompts_are_refused(tmp_path):
    with Store(tmp_path / "folder", ORIGIN) as store, pytest.raises(ValueError, match=r"sources: ask for no prompt"):
        store.draw([], {})


def test_a_full_disk_names_the_file_and_loses_nothing(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        go_on(tmp_path / "folder", kill_after=4)
    with monkeypatch.context() as patch:
        patch.setattr(journals.Journal, "_open", lambda self: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
        with pytest.raises(OSError, match="No space left on device") as caught:
            go_on(tmp_path / "folder")
    assert caught.value.filename == str(tmp_path / "folder/journal-00001.jsonl")
    assert go_on(tmp_path / "folder") == [4, 5, 6]
