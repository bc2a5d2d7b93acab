"""The whole way on a device that refuses to mix with the CPU, without a GPU."""

import json
import os
import shutil
import subprocess
import sys

from conftest import ROOT

CLAIMED = ROOT / "tests/claimed"


def on_device(script, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CLAIMED / "device.py"), str(CLAIMED / script), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_device_refuses_what_cuda_refuses():
    found = json.loads(on_device("proofs.py").stdout)
    for line, (message, said) in found["refused"].items():
        assert message in said, f"{line}: {said}"
    assert all(said is True for said in found["taken"].values()), found["taken"]


def test_everything_runs_on_the_device(tmp_path, tiny_answers):
    """Training, resuming, every command, every rule; and how often the host waits."""
    shutil.copy(tiny_answers, tmp_path / "answers.parquet")
    (tmp_path / "suite.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    done = on_device("scenarios.py", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: said for name, said in results.items() if said != "ok"} == {}, done.stderr[-6000:]
