"""Each writer, killed at each of its steps on the disk: what was there stays whole, the next one finds its way, no file
is left behind for good."""

import ctypes
import json
import multiprocessing
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import make_drafter, make_verifier
from kills import every_kill
from test_answers import answer
from test_store import go_on

from drafter import answers
from drafter.answers import Store
from drafter.config import CacheConfig
from drafter.data.rows import Row
from drafter.export import export
from drafter.files import UNFINISHED, Scratch, atomically, sha256_of, sweep, write_csv, write_json
from drafter.taps import TapCache
from drafter.taps.shards import Shards
from drafter.verifier import Verifier
from drafter.verifier.conversion import _once


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WRITERS = {
    "json": (lambda path: write_json(path, {"b": list(range(99)), "a": 1}), lambda path: json.loads(path.read_text())),
    "csv": (lambda path: write_csv(path, [{"x": 1}, {"x": 2, "y": 3}]), lambda path: path.read_text()),
    "answers": (lambda path: answers.write(path, [answer(0), answer(1)], {"a": 1}), lambda path: answers.read(path)),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("old", [False, True], ids=["new", "over an old one"])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path, kind, old):
    write, read = WRITERS[kind]
    path = tmp_path / ("x.parquet" if kind == "answers" else "x")
    write(path)
    whole, before = read(path), path.read_bytes()
    path.unlink()
    for _ in every_kill(lambda _: write(path)):
        assert not path.exists() or read(path) == whole
        if old:
            path.write_bytes(before)
        else:
            path.unlink(missing_ok=True)
    assert names(tmp_path) == [path.name]  # the last run, which was not killed, removed what the others left
    assert read(path) == whole


def test_a_folder_is_there_as_a_whole(tmp_path):
    def make(scratch):
        for name in "ab":
            (scratch / name).write_text(name)

    for _ in every_kill(lambda _: _once(tmp_path / "verifiers/x", make)):
        assert names(tmp_path / "verifiers/x") in ([], ["a", "b"])
    assert names(tmp_path) == ["verifiers", "verifiers/x", "verifiers/x/a", "verifiers/x/b"]


def test_an_export_is_the_old_one_or_the_new_one(tmp_path):
    """And never none: neither a kill nor another process finds the place empty."""
    folders = old, new, place = [tmp_path / name / "export" for name in ("old", "new", "place")]
    verifier = make_verifier("qwen3")
    drafters = [make_drafter(verifier, seed, num_layers=1, tap_layers=[1]) for seed in (0, 1)]
    for drafter, folder in zip(drafters, folders, strict=False):
        export(drafter, folder, {})
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (old, new)]
    assert contents[0] != contents[1]
    seen = []
    shutil.copytree(old, place)
    for _ in every_kill(lambda _: export(drafters[1], place, {})):
        found = {path.name: path.read_bytes() for path in place.iterdir()}
        seen.append(contents.index(found))
        shutil.rmtree(place)
        shutil.copytree(old, place)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}
    assert names(place.parent) == sorted(["export", *(f"export/{name}" for name in contents[1])])


@pytest.mark.parametrize("able", [True, False], ids=["in one step", "in three"])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, able):
    if not able:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: None)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").touch()
    with atomically(tmp_path / "x", folder=True, over=True) as scratch:
        (scratch / "new").touch()
    assert names(tmp_path) == ["x", "x/new"]


@pytest.mark.parametrize("name", ["folder", pytest.param("file.parquet", marks=pytest.mark.slow)])
def test_answers_in_the_making(tmp_path, name):
    """Whatever was killed when, the next run ends with the rows of an undisturbed one, and with its files alone."""

    def work(path):
        go_on(path, count=3, shard_prompts=2)

    work(tmp_path / "whole" / name)
    whole, files = answers.read(tmp_path / "whole" / name), names(tmp_path / "whole")
    kills = 0
    for at in every_kill(lambda at: work(tmp_path / str(at) / name)):
        kills, place = at, tmp_path / str(at)
        place.mkdir(exist_ok=True)
        with suppress(ValueError):  # exists already: the kill came behind the last thing that counted
            work(place / name)
        assert answers.read(place / name)[0] == whole[0]
        assert names(place) == files
    assert kills > 30


def make_rows():
    generator = torch.Generator().manual_seed(0)
    return [Row(torch.randint(3, 259, (n,), generator=generator).tolist(), ((2, n),)) for n in (9, 5, 30, 22)]


@pytest.mark.parametrize(
    "passes",
    [
        pytest.param(None, id="at once", marks=pytest.mark.slow),
        pytest.param([[1, 0], [2], [3]], id="when asked for"),
    ],
)
def test_taps_in_the_making(tmp_path, monkeypatch, passes):
    monkeypatch.setattr("drafter.taps.cache.SMALLEST_FILE", 20_000)
    monkeypatch.setattr("drafter.taps.cache.TOKENS_PER_PASS", 40)
    rows, settings = make_rows(), CacheConfig()

    def make(folder):
        cache = TapCache(make_verifier("llama"), rows, [1, 3], folder, settings=settings, passes=passes)
        found = [cache[index] for index in range(len(rows))]
        cache.close()
        return found

    whole, kills = make(tmp_path / "whole"), 0
    files = names(tmp_path / "whole")
    assert sum(name.endswith(".bin") for name in files) > 1
    for at in every_kill(lambda at: make(tmp_path / str(at))):
        kills, place = at, tmp_path / str(at)
        for found, true in zip(make(place), whole, strict=True):
            torch.testing.assert_close(found, true, rtol=0, atol=0)
        bins = [name for name in names(place) if name.endswith(".bin")]
        (manifest,) = place.glob("*/manifest.json")
        assert sorted(json.loads(manifest.read_text())["files"]) == [Path(name).name for name in bins]
        assert not [name for name in names(place) if name.endswith(UNFINISHED)]
        if passes is None:
            assert names(place) == files
    assert kills > 12


def test_two_processes_lose_nothing(tmp_path):
    """Each makes other passes, both the same one, and the later one to close enters its own beside the earlier's."""
    rows, passes = make_rows(), [[1, 0], [2], [3]]

    def opened():
        return TapCache(make_verifier("llama"), rows, [1, 3], tmp_path, passes=passes)

    one, other = opened(), opened()
    true = [one[0], other[2], one[3]]
    assert torch.equal(other[3], true[2])
    one.close()
    assert torch.equal(other[2], true[1])
    other.close()
    assert other.shards.whole
    again = opened()
    again.verifier = None  # nothing is left to make
    assert all(torch.equal(again[index], each) for index, each in zip((0, 2, 3), true, strict=True))


def test_one_of_two_processes_makes_taps_that_both_want_at_once(tmp_path, monkeypatch):
    """Both find nothing there before either begins."""
    begun = multiprocessing.get_context("fork").Barrier(2)

    class Together(Shards):
        def __init__(self, *words):
            super().__init__(*words)
            begun.wait(60)

    made, taps, verifier = [], Verifier.taps, make_verifier("llama")
    monkeypatch.setattr("drafter.taps.cache.Shards", Together)
    monkeypatch.setattr(Verifier, "taps", lambda *words: made.append(1) or taps(*words))
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                whole = TapCache(verifier, make_rows(), [1, 3], tmp_path).shards.whole
                os._exit(len(made) if whole else 98)
            os._exit(99)
        children.append(child)
    passes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(passes) == [0, 1]
    (manifest,) = tmp_path.glob("*/manifest.json")
    assert [entry["parts"] for entry in json.loads(manifest.read_text())["files"].values()] == [[0]]


def test_files_are_hashed_once_and_again_when_they_changed(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr("drafter.taps.shards.sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))

    def opened():
        return TapCache(make_verifier("llama"), make_rows(), [1, 3], tmp_path)

    opened()
    opened()
    assert hashed == []  # the writer knew
    (path,) = tmp_path.glob("*/*.bin")
    os.utime(path, (1, 1))  # as a copy to another machine does
    opened()
    opened()
    assert hashed == [path.name]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    ours = Scratch(tmp_path / "x")
    sweep(tmp_path)
    with atomically(tmp_path / "x") as other:
        other.write_text("other")
    assert ours.path.exists()
    ours.path.write_text("ours")
    ours.publish(tmp_path / "x")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "ours"


def test_a_killed_process_leaves_what_the_next_one_removes(tmp_path):
    """A real kill, from outside, in the middle of a file that a process is busy with."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        scratch = Scratch(tmp_path / "x")
        scratch.path.write_text("half")
        os.write(go, b"1")
        signal.pause()
    os.read(ready, 1)
    sweep(tmp_path)
    (left,) = tmp_path.iterdir()  # its maker lives
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write_json(tmp_path / "y", 1)
    assert left.exists()
    write_json(tmp_path / "x", 1)
    assert names(tmp_path) == ["x", "y"]


def test_a_store_that_was_given_up_leaves_no_prompts_of_another_recipe(tmp_path):
    with Store(tmp_path / "folder", {"verifier": "other"}, 1) as store:
        store.draw(({"source": str(number)} for number in range(9)), {})
    go_on(tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("prompts-*"))) == 3
