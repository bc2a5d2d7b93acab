"""Rows that can't be used: counted by reason, named with file and row, left out or fatal."""

import gzip
import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from drafter.sources import BadRows, File
from drafter.sources.base import NAMED

GOOD = b'{"prompt": "Why?"}'


def messages(*turns):
    return json.dumps({"messages": [*turns]}).encode()


USER = {"role": "user", "content": "Why?"}
BAD_LINES = {
    "missing role": messages({"content": "Why?"}),
    "unknown role": messages(USER, {"role": "oracle", "content": "So."}),
    "empty content": messages(USER, {"role": "assistant", "content": " "}),
    "content is no text": messages({"role": "user", "content": 7}),
    "no messages": b'{"messages": []}',
    "no prompt": b'{"text": "Why?"}',
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "too long": b'{"prompt": "' + b"x" * 10_000_000 + b'"}',
    "no JSON": b'{"prompt": "Wh',
    "no JSON object": b'["Why?"]',
    "broken tool call": messages(USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}),
}
MORE_BAD_LINES = [
    ("no prompt", messages({"role": "assistant", "content": "So."})),
    ("no messages", b'{"messages": ["Why?"]}'),
    ("empty content", b'{"messages": "", "prompt": 7}'),
    ("invalid UTF-8", b'{"prompt": "\\ud800"}'),
    ("content is no text", messages({"role": "user", "content": [{"type": "image"}]})),
    ("broken tool call", b'{"prompt": "Why?", "tools": "["}'),
    ("no JSON", b"[" * 100_000),
]


def read(path, policy="skip"):
    bad = BadRows(policy)
    found = list(File(path=str(path)).conversations(0, bad))
    return found, bad.as_dict()


@pytest.mark.parametrize("ending", [b"\n", b""], ids=["ended", "cut"])
@pytest.mark.parametrize(("reason", "line"), [*BAD_LINES.items(), *MORE_BAD_LINES])
def test_bad_lines_are_counted_named_and_left_out(tmp_path, caplog, reason, line, ending):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD + b"\n" + line + ending)
    with caplog.at_level(logging.WARNING):
        found, bad = read(path)
    assert [one["source"] for one in found] == ["mine.jsonl:1", "mine.jsonl:4"]
    assert bad == {reason: 2}
    assert f"left out {path}, row 3: {reason}" in caplog.text
    with pytest.raises(ValueError, match=rf"mine\.jsonl, row 3: {reason}.*; mend or remove it, or set data\.bad_rows"):
        read(path, "fail")


def test_only_the_first_of_a_reason_are_named(tmp_path, caplog):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join([b"{", *[b"[]"] * 9]))
    with caplog.at_level(logging.WARNING):
        assert read(path) == ([], {"no JSON": 1, "no JSON object": 9})
    assert len(caplog.records) == 1 + NAMED


def test_damaged_files_are_named_and_the_others_read(tmp_path):
    whole = b"".join(b'{"prompt": "%d"}\n' % number for number in range(20_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(whole)[:-3000])
    (tmp_path / "b.jsonl.gz").write_bytes(GOOD)
    table = pyarrow.table({"prompt": ["Why?"] * 100})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    content = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(content[:-20])
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(GOOD))
    found, bad = read(tmp_path / "*.jsonl.gz")
    assert found[-1]["source"] == "d.jsonl.gz:1"
    assert 0 < len(found) < 20_001
    assert bad == {"damaged file": 2}
    assert read(tmp_path / "c.parquet") == ([], {"damaged file": 1})
    with pytest.raises(ValueError, match=r"c\.parquet: damaged file"):
        read(tmp_path / "c.parquet", "fail")


def test_bad_rows_of_parquet_are_named(tmp_path):
    path = tmp_path / "mine.parquet"
    raw = pyarrow.array([b"Why?", b"\xff\xfe", b"", b"x" * 3_000_000, b"So?"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": raw, "more": [0] * 5}), path)
    found, bad = read(path)
    assert [one["source"] for one in found] == ["mine.parquet:1", "mine.parquet:5"]
    assert bad == {"empty content": 1, "invalid UTF-8": 1, "too long": 1}
    with pytest.raises(ValueError, match=r"mine\.parquet, row 2: invalid UTF-8"):
        read(path, "fail")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Why?"]}), path)
    assert read(path) == ([], {"no prompt": 1})
