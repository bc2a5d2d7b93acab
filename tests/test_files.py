"""Files that are whole or not there."""

import errno
import json
import math

import pytest

from drafter.files import atomically, sha256_of, write_csv, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [2]})
    before = sha256_of(path)

    def fill() -> None:
        with atomically(path) as scratch:
            scratch.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert sha256_of(path) == before
    assert json.loads(path.read_text()) == {"a": [2], "b": 1}


def test_what_cannot_be_made_is_named_as_its_user_named_it(tmp_path):
    path = tmp_path / "nowhere/a.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_json(path, {})
    assert caught.value.filename == str(path)


def test_what_is_no_finite_number_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.5, math.nan], "b": {"c": (math.inf, -math.inf)}})
    found = (tmp_path / "a.json").read_text()
    assert json.loads(found, parse_constant=pytest.fail) == {"a": [1.5, None], "b": {"c": [None, None]}}


def test_records_of_unequal_names_share_a_table(tmp_path):
    write_csv(tmp_path / "a.csv", [{"x": 1, "y": "a,b"}, {"z": None, "x": 2}])
    assert (tmp_path / "a.csv").read_text() == 'x,y,z\n1,"a,b",\n2,,\n'
