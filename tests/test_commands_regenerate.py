"""`drafter regenerate`: what it prints and writes; the settings that it refuses."""

import json

import pytest
from conftest import ROOT, make_verifier
from fault_server import serve

from drafter import answers
from drafter.__main__ import main
from drafter.answers import check_origin
from drafter.config import load
from drafter.data.conversations import as_conversation
from drafter.verifier.tokenizer import tokenizer_hash

ASKED = [{"source": f"{number}.py", "kind": "write", "prompt": f"say {number}"} for number in range(5)]


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch):
    monkeypatch.setattr("drafter.regenerate.recipe.gather", lambda *_: map(as_conversation, ASKED))


def run(path, *overrides):
    recipe = str(ROOT / "recipes/tiny.yaml")
    main(["regenerate", recipe, "data.max_new_tokens=3", *overrides, "--out", str(path), "--json", f"{path}.json"])


def test_it_prints_and_writes_counts(tmp_path, capsys):
    run(tmp_path / "folder")
    rows, manifest = answers.read(tmp_path / "folder")
    tokens = sum(len(row["answer_ids"]) for row in rows)
    assert f"folder: 5 rows, {tokens} tokens of 5 prompts\n" in capsys.readouterr().out
    found = json.loads((tmp_path / "folder.json").read_text())
    assert found == {"answers": str(tmp_path / "folder"), **manifest}
    assert manifest["recipe"]["data"]["max_new_tokens"] == 3


def test_what_only_training_reads_may_change(tmp_path):
    run(tmp_path / "folder", "data.shard_prompts=2")
    (tmp_path / "folder/shard-00001.parquet").unlink()
    with pytest.raises(SystemExit, match=r"other recipe\.data\.sources\) are in"):
        run(tmp_path / "folder", "data.sources=[{kind: self_prompting, count: 1}]")
    with pytest.raises(SystemExit, match=r"other recipe\.seed, verifier, verifier_ends\) are in"):
        run(tmp_path / "folder", "seed=1", "verifier.source=tiny-qwen3")
    run(tmp_path / "folder", "data.batch_size=1", "data.validation_share=0.5", "data.answers=elsewhere")
    assert [row["prompt"] for row in answers.read(tmp_path / "folder")[0]] == [one["prompt"] for one in ASKED]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.temperature=-1", r"data\.temperature=-1\.0: must be >= 0; 0 is greedy"),
        ("data.top_p=0", r"data\.top_p=0\.0: must lie above 0 and be at most 1"),
        ("data.shard_prompts=0", r"data\.shard_prompts=0: must be >= 1"),
    ],
)
def test_wrong_settings_end_in_one_line(override, expected):
    with pytest.raises(ValueError, match=expected):
        load(ROOT / "recipes/tiny.yaml", [override])


def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file/folder"
    with pytest.raises(SystemExit) as caught:
        main(["regenerate", str(ROOT / "recipes/tiny.yaml"), f"data.answers={place}"])
    assert caught.value.code == f"error: {place}: Not a directory; check path and permissions"


def test_a_file_of_conversations_is_answered(tmp_path, monkeypatch):
    """Those that can be used; the others are counted in the manifest."""
    monkeypatch.undo()
    system, why, so = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    tools = [{"type": "function", "function": {"name": "clock"}}]
    records = [
        {"messages": [system, why, so, {"role": "user", "content": "And?"}], "tools": tools},
        {"messages": [{"content": "no role"}]},
        {"prompt": "How?"},
        {"prompt": "How?"},
        {"prompt": "y" * 3000},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "{torn")
    said = f"data.sources=[{{kind: file, path: {path}}}]"
    run(tmp_path / "folder", said)
    rows, manifest = answers.read(tmp_path / "folder")
    assert manifest["bad_rows"] == {"missing role": 1, "no JSON": 1, "too long for the verifier": 1}
    assert (manifest["prompts"], manifest["failed"]) == (2, {})
    assert {row["source"] for row in rows} == {"mine.jsonl:1", "mine.jsonl:3"}
    assert json.loads(rows[0]["messages"]) == [system, why]
    assert json.loads(rows[0]["tools"]) == tools
    assert rows[-1]["prompt"] == "How?"
    with pytest.raises(SystemExit, match=r"mine\.jsonl, row 2: missing role; mend or remove it, or set data\.bad_rows"):
        run(tmp_path / "other", said, "data.bad_rows=fail")


def by_server(url, *overrides):
    return [f"data.server.url={url}", "data.server.model=m", "data.server.concurrency=2", *overrides]


def test_a_server_answers_a_recipe(tmp_path):
    """Without the verifier's weights; where the server is, and how it is asked, may change from run to run."""
    verifier = make_verifier("llama")

    def count(body):
        return len(verifier.chat_ids(body["messages"]))

    with serve(count, **{"say 3": [401]}) as server:
        with pytest.raises(SystemExit, match="HTTP 401"):
            run(tmp_path / "folder", *by_server(server.url))
    with serve(count) as server:
        run(tmp_path / "folder", *by_server(server.url, "data.server.retries=1", "data.server.timeout=9"))
    rows, manifest = answers.read(tmp_path / "folder")
    assert [verifier.tokenizer.decode(row["answer_ids"]) for row in rows] == [
        f"re: say {number}<|end|>" for number in range(5)
    ]
    assert manifest["recipe"]["data"]["server"] == {"model": "m", "token_ids": False, "extra": {}}
    assert "127.0.0.1" not in (tmp_path / "folder/manifest.json").read_text()
    check_origin(tmp_path, manifest, "any", tokenizer_hash(verifier.tokenizer))


def test_a_server_writes_no_prompts(tmp_path):
    asked = "data.sources=[{kind: self_prompting, count: 1}]"
    with pytest.raises(SystemExit, match=r"data\.sources\[0\]\.kind='self_prompting': a server is given whole turns"):
        run(tmp_path / "folder", *by_server("http://127.0.0.1:9/v1", asked))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("url=localhost:8000", r"data\.server\.url='localhost:8000': write it as http://host:port/v1"),
        (
            "url=http://me:secret@host/v1",
            r"data\.server\.url='\.\.\.': holds a password; use data\.server\.api_key_env",
        ),
        ("url=http://host/v1", r"data\.server\.model=None: name the model as the server does"),
        ("concurrency=0", r"data\.server\.concurrency=0: must be >= 1"),
        ("retries=-1", r"data\.server\.retries=-1: must be >= 0"),
        ("timeout=0", r"data\.server\.timeout=0\.0: must be > 0 seconds"),
        ("extra={seed: 1}", r"data\.server\.extra=\['seed'\]: set by other keys"),
        ("modle=m", r"data\.server\.modle: unknown key; did you mean data\.server\.model\?"),
    ],
)
def test_wrong_settings_of_a_server_end_in_one_line(override, expected):
    with pytest.raises(ValueError, match=expected):
        load(ROOT / "recipes/tiny.yaml", [f"data.server.{override}"])
