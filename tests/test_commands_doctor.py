"""`drafter doctor`, how commands end, and which errors become a line."""

import json
import re
import shutil
from collections import namedtuple

import pytest
import torch

from drafter.__main__ import main
from drafter.commands import doctor, selftest
from drafter.commands.endings import ending, run_ending
from drafter.commands.errors import DEBUG, message, one_line_errors
from drafter.machine import environment
from drafter.machine.environment import Fact


def test_the_self_test_runs_every_stage_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = selftest.self_test()
    assert (found.state, found.name) == ("ok", "self-test"), found.text
    assert all(stage in found.text for stage in selftest.STAGES)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_stage_is_a_fault_that_names_it(monkeypatch):
    def fail(folder):
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr(selftest, "STAGES", {"regenerate": lambda folder: None, "decode": fail})
    assert selftest.self_test() == Fact("self-test", "fault", "decode: RuntimeError: no kernel")


def test_faults_decide_the_exit_code(tmp_path, tiny_answers, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["doctor", "tiny", f"data.answers={tiny_answers}", "--no-self-test", "--json", "found.json"])
    assert "ok    recipe        tiny: writes to runs/tiny\n" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {"ok"} < {one["state"] for one in found} <= {"ok", "note"}
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "tiny", "data.answers=nowhere", "verifier.source=./none", "--no-self-test"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "fault answers       data.answers='nowhere': no such file" in said
    assert "fault verifier      verifier.source='./none': no such file or directory" in said
    assert [one.state for one in doctor.check_recipe("tiny", ["training.rows=0"])] == ["fault"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("drafter.mask_token_id=-1", "drafter.mask_token_id=-1: is no id of the verifier; ids .* never uses: 259, 260"),
        ("drafter.mask_token_id=1", "drafter.mask_token_id=1: is the verifier's bos; ids .* never uses: 259, 260"),
        ("drafter.num_taps=9", "drafter.num_taps=9: the verifier has room for"),
    ],
)
def test_what_of_a_drafter_does_not_fit_its_verifier_is_found_without_weights(override, message):
    found = doctor.check_recipe("tiny", [override])[-1]
    assert (found.name, found.state) == ("drafter", "fault")
    assert re.match(message, found.text)


def test_a_full_or_closed_disk_is_told(tmp_path, monkeypatch):
    assert environment.disk("runs", tmp_path / "not/yet").state == "ok"
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 10**9))
    assert environment.disk("runs", tmp_path) == Fact("runs", "note", f"{tmp_path}: 1.0 GB free")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert environment.disk("runs", tmp_path).state == "fault"


def test_an_ending_says_what_lies_where_and_quotes_what_comes_next(tmp_path):
    (tmp_path / "made").touch()
    assert ending("done", [tmp_path / "made", tmp_path / "not"], [["check", "a b"]]) == (
        f"done\n  {tmp_path / 'made'}\nnext:\n  drafter check 'a b'"
    )
    assert ending("done", [], []) == "done"


def test_a_run_ends_with_its_headline(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    lines = run_ending(finished_run, "tiny-llama", summary).splitlines()
    assert lines[0].startswith(f"tiny: {summary['tokens_per_cycle']:.3f} tokens per cycle on held-out rows, ")
    assert f"  {finished_run / 'export'}/" in lines
    assert lines[-1] == f"  drafter check {finished_run / 'export'} --verifier tiny-llama"


def test_an_ensemble_ends_with_how_its_head_decodes(tmp_path):
    summary = {"tokens_per_cycle": 2.0, "reward": 0.5, "reward_over_static": {"value": 0.1, "low": -0.1, "high": 0.3}}
    summary["asked"] = {"prompt": "How much is 2 + 5?", "temperature": 0.5}
    alone = run_ending(tmp_path, "V", summary, "ensemble")
    assert alone == (
        f"{tmp_path.name}: 2.000 tokens per cycle on held-out tasks, reward 0.500, over static ensembles +0.100 "
        "[-0.100, +0.300]"
    )
    (tmp_path / "pair/export").mkdir(parents=True)
    last = run_ending(tmp_path, "V", summary, "ensemble").splitlines()[-1]
    assert f"generate {tmp_path}/pair/export --verifier V --rule dynamic_ensemble:head={tmp_path}/head " in last
    assert last.endswith(" --temperature 0.5 'How much is 2 + 5?'")  # as it was trained, a task of its own


def test_a_run_ends_with_what_limits_took(tmp_path):
    limits = {"looked_at": 9, "left_out": 2, "cut": 3, "limit": 64, "loops": 4, "beyond_max_rows": 1}
    assert run_ending(tmp_path, "tiny-llama", {"limits": limits}).splitlines()[1:] == [
        "2 of 9 rows have no room for their answer in data.sequence_length=64 and are left out",
        "3 of 9 rows lose a part of their answer to data.sequence_length=64",
        "4 of 9 answers end in a loop (data.cut_loops)",
        "1 training rows are beyond data.max_rows",
    ]
    nothing = {**limits, "left_out": 0, "cut": 0, "loops": 0, "beyond_max_rows": 0}
    assert run_ending(tmp_path, "tiny-llama", {"limits": nothing}) == f"{tmp_path.name}: finished"


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a=1: too\nsmall"), "a=1: too small"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), "a.csv: No such file or directory; check path"),
        (
            ModuleNotFoundError("No module named 'vllm'", name="vllm"),
            "vllm: No module named 'vllm'; install it with pip",
        ),
        (ImportError("cannot import name 'x' from 'vllm.y'", name="vllm.y"), "vllm: cannot import name"),
        (OSError(28, "No space left on device", "a.csv"), "a.csv: No space left on device; free space or"),
        (MemoryError(), "memory is full (of this machine); lower batch sizes, rows or anchors"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "memory is full (CUDA out of memory)"),
        (RuntimeError("[x] . DefaultCPUAllocator: can't allocate memory: 9 bytes"), "memory is full ("),
        (
            RuntimeError("CUDA error: no kernel image is available\nmore"),
            "the CUDA device failed (CUDA error: no kernel",
        ),
        (RuntimeError("Found no NVIDIA driver on your system"), "the CUDA device failed (Found no NVIDIA driver"),
    ],
)
def test_what_a_user_can_mend_is_a_line(error, line):
    assert message(raised(error)).startswith(line)
    with pytest.raises(SystemExit, match=r"^error: [^\n]+$"), one_line_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes [2, 3] and [4] do not fit"),
        KeyError("x"),
        AttributeError("x"),
        TypeError("x"),
        ModuleNotFoundError("No module named 'drafter.nothing'", name="drafter.nothing"),
        ImportError("cannot import name 'x' from 'losses'", name="losses"),
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
    assert not isinstance(error, (RuntimeError, ImportError)) or message(raised(error)) is None
    with pytest.raises(type(error)), one_line_errors():
        raise error


def test_debugging_shows_a_users_error_whole(monkeypatch):
    monkeypatch.setenv(DEBUG, "1")
    with pytest.raises(ValueError, match="whole"), one_line_errors():
        raise ValueError("whole")


def test_an_interruption_is_told_in_a_line(capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from what was saved\n"
