"""What is told of a command line before a command works: words that are none, places that can't be written."""

import subprocess
import sys
from argparse import Namespace

import pytest

from drafter.__main__ import main
from drafter.commands.decoding import draft_vocabulary
from drafter.commands.places import check_places


def usage_of(capsys, *words):
    """What is said of a line that is none."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_only_what_is_missing_is_asked_for(capsys):
    for command in ("train", "regenerate", "engine"):
        assert usage_of(capsys, command).endswith("error: the following arguments are required: RECIPE\n")
    assert usage_of(capsys, "ablate").endswith("required: ABLATION\n")


def test_an_option_that_is_none_comes_with_the_usage_of_its_command(capsys):
    said = usage_of(capsys, "train", "tiny", "--dryrun")
    assert said.startswith("usage: drafter train")
    assert "unrecognized arguments: --dryrun" in said


@pytest.fixture
def refused(tmp_path):
    """A function: words → the line with which `compare`, of what is not there, ends."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["compare", "one", "other", *words])
        return ended.value.code

    return run


def test_places_that_cannot_be_written_are_told_before_a_command_works(refused, tmp_path, monkeypatch):
    file, inside = tmp_path / "file", tmp_path / "file/out"
    file.write_text("")
    assert refused("--out", str(file)) == f"error: out={str(file)!r}: is a file; name a folder"
    assert refused("--out", str(inside)) == f"error: out={str(inside)!r}: {file} is no folder; name another path"
    monkeypatch.setattr("os.access", lambda *_: False)
    inside = tmp_path / "a/b"
    assert refused("--out", str(inside)).startswith(f"error: out={str(inside)!r}: {tmp_path} can't be written")


def test_a_file_of_figures_takes_the_place_of_files_alone(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("elsewhere.json")
    for place in (tmp_path, link):
        with pytest.raises(ValueError, match=r"^json='.*': is a folder, a link or a device; name a file$"):
            check_places(Namespace(json=place))
    check_places(Namespace(json=tmp_path / "a/b/figures.json"))
    assert (tmp_path / "a/b").is_dir()
    with pytest.raises(ValueError, match="device"):
        check_places(Namespace(json=type(tmp_path)("/dev/null")))


def test_a_draft_vocabulary_that_is_not_there_is_named_as_it_was_asked_for():
    with pytest.raises(ValueError, match=r"^draft-vocabulary='none:3': no such file; name full, or a file of"):
        draft_vocabulary(Namespace(draft_vocabulary="none:3", verifier="tiny-llama"))


PIPED = """
import sys
from drafter.commands.errors import one_line_errors
with one_line_errors():
    for number in range(LINES):
        print(number, flush=FLUSH)
"""


@pytest.mark.parametrize(("lines", "flush"), [(100_000, True), (1, False)], ids=["while", "behind"])
def test_a_reader_that_has_enough_is_no_error(lines, flush):
    code = PIPED.replace("LINES", str(lines)).replace("FLUSH", str(flush))
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdout.close()
    assert run.stderr.read() == ""
    assert run.wait() == 141
