"""Files of answers: round trip, damage, parts, and kills in the middle."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import NEW_TOKENS, make_verifier, plain_generate

from drafter.data import answers
from drafter.data.answers import Parts, digest
from drafter.regenerate import regenerate

ROOT = Path(__file__).parent.parent
MANIFEST = {"verifier": "abc", "rows": 7}


def answer(number):
    return {
        "source": f"{number}.py",
        "kind": "write",
        "prompt": f"number {number}\n\u00fc",
        "answer_ids": list(range(number)),
        "stop": "stop",
    }


def prompts(count):
    return [{"source": f"{i}.py", "kind": "write", "prompt": "x" * (3 * i % 7) + str(i)} for i in range(count)]


class Killed(BaseException):
    """Stands for a signal: no handler of errors may catch it."""


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "answers.parquet"
    rows = [answer(number) for number in range(5)]
    answers.write(path, rows, MANIFEST)
    assert answers.read(path) == (rows, MANIFEST)
    assert [each.name for each in path.parent.iterdir()] == ["answers.parquet"]


def test_writing_replaces_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "answers.parquet"
    answers.write(path, [answer(1)], MANIFEST)

    def fail(*_, **__):
        raise Killed

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(Killed):
        answers.write(path, [answer(2)], MANIFEST)
    assert answers.read(path)[0] == [answer(1)]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_off_is_refused(tmp_path, keep):
    path = tmp_path / "answers.parquet"
    answers.write(path, [answer(number) for number in range(50)], MANIFEST)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"^data\.answers='.*': cut off or damaged \(.*\); make it again$"):
        answers.read(path)


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such file; make it with `python -m drafter regenerate RECIPE`"):
        answers.read(tmp_path / "none.parquet")
    answers.write(tmp_path / "empty.parquet", [], MANIFEST)
    with pytest.raises(ValueError, match=r"empty\.parquet': holds no rows; raise data\.prompts"):
        answers.read(tmp_path / "empty.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "kind": ["b"]}), tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns \['source', 'prompt', 'answer_ids', 'stop'\]"):
        answers.read(tmp_path / "foreign.parquet")


def test_digest_sees_content_and_order():
    one, two = {"a": 1, "b": 2}, {"b": 3}
    assert digest([one, two]) == digest([{"b": 2, "a": 1}, two])
    assert len({digest(rows) for rows in ([one, two], [two, one], [one], [])}) == 4


def test_parts_are_picked_up_and_merged_in_order(tmp_path):
    path = tmp_path / "answers.parquet"
    first = Parts(path, MANIFEST, size=2)
    for index in (4, 0, 2):
        first.add(index, answer(index))  # two of them are a part, the third is lost with the process
    again = Parts(path, MANIFEST, size=2)
    assert again.done == {4: answer(4), 0: answer(0)}
    for index in (1, 2, 3):
        again.add(index, answer(index))
    assert not path.exists()
    again.finish()
    assert answers.read(path) == ([answer(index) for index in range(5)], MANIFEST)
    assert not again.folder.exists()


def test_a_damaged_part_is_refused_by_name(tmp_path):
    path = tmp_path / "answers.parquet"
    parts = Parts(path, MANIFEST, size=1)
    for index in range(3):
        parts.add(index, answer(index))
    damaged = parts.folder / "part-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"part-00001\.parquet': cut off or damaged"):
        Parts(path, MANIFEST)


def test_parts_of_another_recipe_are_refused(tmp_path):
    path = tmp_path / "answers.parquet"
    Parts(path, MANIFEST, size=1).add(0, answer(0))
    with pytest.raises(ValueError, match=r"unfinished parts of another recipe \(other rows, verifier\)"):
        Parts(path, {"verifier": "xyz", "rows": 8})
    assert Parts(path, MANIFEST).done == {0: answer(0)}


def test_regenerated_answers_are_the_verifiers(tmp_path):
    verifier = make_verifier("llama")
    path = tmp_path / "answers.parquet"
    manifest = regenerate(verifier, prompts(5), path, NEW_TOKENS, batch_size=3)
    rows, found = answers.read(path)
    assert found == manifest
    assert manifest["verifier"] == verifier.fingerprint()
    assert [row["prompt"] for row in rows] == [prompt["prompt"] for prompt in prompts(5)]
    for row in rows:
        assert row["answer_ids"] == plain_generate(verifier, verifier.chat_ids(row["prompt"]), NEW_TOKENS)


@pytest.mark.parametrize("kill_at", [1, 64, 70, 99])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_file(tmp_path, kill_at):
    verifier = make_verifier("llama")
    asked = prompts(100)
    regenerate(verifier, asked, tmp_path / "whole.parquet", 3, batch_size=16)

    def progress(done, total):
        if done == kill_at:
            raise Killed

    path = tmp_path / "killed.parquet"
    with pytest.raises(Killed):
        regenerate(verifier, asked, path, 3, 16, progress)
    assert not path.exists()
    told = []
    regenerate(verifier, asked, path, 3, 16, lambda done, total: told.append(done))
    assert told[0] == (64 if kill_at >= 64 else 0)  # what the last whole part held
    assert told[-1] == 100
    assert answers.read(path) == answers.read(tmp_path / "whole.parquet")


def test_prompts_too_long_are_refused_before_any_is_answered(tmp_path):
    asked = [*prompts(3), {"source": "", "kind": "write", "prompt": "y" * 2100}]
    told = []
    with pytest.raises(
        ValueError, match=r"data\.max_new_tokens=3: a prompt has 21\d\d tokens, .* context is 2048; lower"
    ):
        regenerate(make_verifier("llama"), asked, tmp_path / "x", 3, 2, lambda done, total: told.append(done))
    assert told == [0]


def test_a_killed_process_goes_on_to_the_same_file(tmp_path):
    """A real SIGKILL, in the middle of the second part."""
    script = """
        import os, signal, sys
        from pathlib import Path
        from test_answers import prompts
        from conftest import make_verifier
        from drafter.regenerate import regenerate

        def progress(done, total):
            if done == 90:
                os.kill(os.getpid(), signal.SIGKILL)

        regenerate(make_verifier("llama"), prompts(100), Path(sys.argv[1]), 3, 16, progress)
    """
    path = tmp_path / "killed.parquet"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list((tmp_path / "killed.parquet.parts").glob("part-*.parquet"))) == 1
    regenerate(make_verifier("llama"), prompts(100), path, 3, 16)
    regenerate(make_verifier("llama"), prompts(100), tmp_path / "whole.parquet", 3, 16)
    assert answers.read(path) == answers.read(tmp_path / "whole.parquet")
