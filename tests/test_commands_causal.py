"""Commands find out that a directory holds a causal language model, and decode with it."""

import json

import pytest
from conftest import make_verifier

from drafter.__main__ import main
from drafter.decode import SpeculativeDecoder
from drafter.models import BlockDiffusionDrafter, CausalDrafter, kind_of
from drafter.verifier import tiny

VERIFIER = ["--verifier", "tiny-llama", "--dtype", "float32"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The verifier itself, so that every draft is kept."""
    path = tmp_path_factory.mktemp("small")
    tiny.save("llama", path)
    return str(path)


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("What?", "def f(x):", "Say it again.")))
    return str(path)


def test_generate(directory, capsys, tmp_path):
    out = tmp_path / "found.json"
    main(["generate", directory, "What?", *VERIFIER, "--max-new-tokens", "20", "--compare", "--json", str(out)])
    verifier, found = make_verifier("llama"), json.loads(out.read_text())
    expected = SpeculativeDecoder(verifier).generate([verifier.chat_ids("What?")], 20)[0]
    assert found["same_tokens"]
    assert found["with drafts"]["token_ids"] == expected.token_ids
    assert set(found["with drafts"]["accepted"][:-1]) == {5}
    main(["generate", "tiny-qwen3", "What?", *VERIFIER, "--max-new-tokens", "20", "--temperature", "1"])
    assert "with drafts" in capsys.readouterr().err


def test_evaluate_and_benchmark(directory, suite, tmp_path):
    asked = ["--suites", suite, "--max-new-tokens", "13", "--raw"]
    main(["evaluate", directory, *VERIFIER, *asked, "--draft-length", "3", "--json", str(tmp_path / "e.json")])
    assert json.loads((tmp_path / "e.json").read_text())["suites"]["asked"]["tokens_per_cycle"] == 4
    more = ["--draft-lengths", "2", "auto", "--repeats", "1", "--json", str(tmp_path / "b.json")]
    main(["benchmark", directory, *VERIFIER, *asked, *more])
    cells = json.loads((tmp_path / "b.json").read_text())["cells"]
    assert [cell["drafts"] for cell in cells] == ["0", "2", "auto"]
    assert cells[1]["tokens_per_cycle"] == 3
    assert cells[1]["draft_ms"] > 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--tree-nodes", "4"], "tree-nodes=4: the slots of .* depend on each other; leave it out"),
        (["--draft-vocabulary", "full"], "draft-vocabulary='full': .* proposes from its own vocabulary; leave it out"),
        (["--draft-length", "2048"], "draft_length=2048: the drafter proposes at most 2047"),
    ],
)
def test_errors_come_before_models_are_loaded(directory, words, named, monkeypatch):
    monkeypatch.setattr("drafter.commands.decoding.load_verifier", lambda *_: pytest.fail("loaded"))
    with pytest.raises(SystemExit, match=named):
        main(["generate", directory, "What?", *VERIFIER, *words])


def test_the_walk_is_of_blocks_alone(directory, suite):
    with pytest.raises(SystemExit, match=r"by='walk': .* is no block-diffusion drafter; use --by decoder"):
        main(["evaluate", directory, *VERIFIER, "--suites", suite, "--by", "walk"])


def test_kinds_are_told_by_their_config(directory, tmp_path):
    assert kind_of(directory) is CausalDrafter
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["DFlashDraftModel"], "model_type": "qwen3"}))
    assert kind_of(str(tmp_path)) is BlockDiffusionDrafter
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match=r"architectures=\['BertModel'\]; name a drafter of one of the kinds Block"):
        kind_of(str(tmp_path))
