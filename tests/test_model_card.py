"""The model card of an export, and its upload: private unless told, never unchecked."""

import json
import subprocess

import huggingface_hub
import pytest
from conftest import make_memorising
from tiny_run import FAMILY, SOURCE, make_run

from drafter.__main__ import main
from drafter.export import export
from drafter.export.card import add_results, card
from drafter.export.hub import push
from drafter.export.record import front_matter, licence, provenance


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def exported(run_directory, tmp_path):
    main(["export", str(run_directory / "checkpoints/best.ckpt"), str(tmp_path / "out")])
    return tmp_path / "out"


def test_the_model_card_says_what_was_measured(run_directory, exported, tmp_path):
    (tmp_path / "evaluation.json").write_text(
        json.dumps({"suites": {"humaneval": {"tokens_per_cycle": 1.91, "low": 1.85, "high": 1.97, "prompts": 164}}})
    )
    main(["export", str(exported), str(tmp_path / "card"), "--evaluation", str(tmp_path / "evaluation.json")])
    text = (tmp_path / "card/README.md").read_text()
    for line in (
        f"| name | {SOURCE} |",
        "| humaneval | 1.910 | 1.850 to 1.970 | 164 |",
        "| decayed_ce | 1.0 | mean |",
        "| chain_reward | 0.1 |",
        "| fingerprint of its weights |",
        "vllm serve VERIFIER ",
        f"VERIFIER: where `{SOURCE}` lies; ",
    ):
        assert line in text, line
    run_card = card(run_directory / "export", "export")
    for line in (
        "| held-out | ",
        "| plain loop | ",
        "Speed-up over the faster plain way",
        "| commit | ",
        "| rows | 18 |",
        "| longest row, in tokens | 512 |",
        "| thoughts before answers | as the verifier wrote them |",
    ):
        assert line in run_card, line
    data = huggingface_hub.ModelCard(text).data
    assert data.base_model is None  # the tiny verifier is on no hub
    assert "dflash" in data.tags


def test_the_card_names_a_verifier_of_the_hub(tmp_path):
    recipe = {"name": "x", "verifier": {"source": "Qwen/Qwen3-0.6B"}}
    export(make_memorising(FAMILY), tmp_path / "out", {"recipe": recipe, "verifier_licence": "apache-2.0"})
    data = huggingface_hub.ModelCard.load(tmp_path / "out/README.md").data
    assert (data.base_model, data.license) == ("Qwen/Qwen3-0.6B", "apache-2.0")


def test_the_card_of_a_published_drafter_claims_nothing(tmp_path):
    export(make_memorising(FAMILY), tmp_path / "out", {})
    text = (tmp_path / "out/README.md").read_text()
    assert text.count("Not measured.") == 2
    assert "not stated" in text
    add_results(tmp_path / "out", {"suites": {"x": {"tokens_per_cycle": 2.0}}})
    assert "| x | 2.000 |" in (tmp_path / "out/README.md").read_text()


def test_the_licence_comes_from_the_verifiers_own_card(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    assert licence(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("# Model\n")
    assert licence(str(tmp_path)) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: [mit, apache-2.0]\n---\n# Mod\xe8le\n")
    assert licence(str(tmp_path)) == "mit, apache-2.0"
    assert licence("someone/unknown") is None
    (tmp_path / "README.md").write_text("# Model\n")
    assert front_matter(tmp_path / "README.md") == {}


def test_a_commit_is_this_codes_and_not_that_of_a_checkout_around_it(tmp_path, monkeypatch):
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    inside = tmp_path / "site-packages/drafter/export"
    inside.mkdir(parents=True)
    monkeypatch.setattr("drafter.export.record.__file__", str(inside / "record.py"))
    assert provenance()["commit"] == "not a checkout"


def test_a_directory_of_one_folder_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    export(make_memorising(FAMILY), tmp_path / "out", {"recipe": {"verifier": {"source": "models/mine"}}})
    assert huggingface_hub.ModelCard.load(tmp_path / "out/README.md").data.base_model is None


class FakeHub:
    calls: list

    def __init__(self):
        FakeHub.calls = []

    def create_repo(self, repository, **settings):
        self.calls.append(("create", repository, settings))
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, **settings):
        self.calls.append(("upload", settings))


@pytest.mark.parametrize("words", [[], ["--public"]])
def test_a_good_export_is_pushed_privately_unless_told(run_directory, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    main(["export", str(run_directory / "export"), str(tmp_path / "out"), "--push", "someone/tiny", *words])
    (_, name, made), (_, sent) = FakeHub.calls
    assert (name, made["private"]) == ("someone/tiny", not words)
    assert sent["folder_path"] == tmp_path / "out"
    chosen = list(
        huggingface_hub.utils.filter_repo_objects(
            [path.name for path in (tmp_path / "out").iterdir()], allow_patterns=sent["allow_patterns"]
        )
    )
    assert sorted(chosen) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {"model*.safetensors", "model.safetensors.index.json"} <= set(sent["delete_patterns"])  # of an older upload
    assert "huggingface.co/someone/tiny" in capsys.readouterr().out


def test_a_bad_export_is_not_pushed(run_directory, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    FakeHub.calls = []
    words = ["--push", "someone/tiny", "--verifier", "tiny-qwen2"]
    with pytest.raises(SystemExit) as stop:
        main(["export", str(run_directory / "export"), str(tmp_path / "out"), *words])
    assert "nothing was uploaded" in str(stop.value)
    assert FakeHub.calls == []


def test_push_needs_a_verifier_to_check_against(tmp_path):
    export(make_memorising(FAMILY), tmp_path / "out", {})
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "out"), str(tmp_path / "again"), "--push", "someone/tiny"])
    assert "say against what with --verifier" in str(stop.value)


def test_push_without_network_says_so(exported, monkeypatch):
    """The hub's own client, which refuses before it opens a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="push='someone/tiny': not uploaded") as error:
        push(exported, "someone/tiny")
    assert "\n" not in str(error.value)
