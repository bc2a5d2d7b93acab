"""A serving engine as a partner: requests side by side, giving up, commands as a shell reads them."""

import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT, make_memorising

from drafter.__main__ import main
from drafter.config import AlignmentConfig, load_as
from drafter.engine.client import Failure
from drafter.engine.command import serve_answers, serve_states
from drafter.engine.parallel import LEAST_PATIENCE, Patience, in_parallel
from drafter.engine.process import running
from drafter.export import convert
from drafter.export.serve import serve_commands


def test_every_item_comes_back_with_what_became_of_it():
    at_work, most, lock = set(), [0], threading.Lock()

    def work(item):
        with lock:
            at_work.add(item)
            most[0] = max(most[0], len(at_work))
        time.sleep(0.002)
        with lock:
            at_work.discard(item)
        if item % 5 == 0:
            raise Failure("odd", str(item))
        return item * item

    found = dict(in_parallel(work, range(40), 3, lambda: None))
    assert {item: value for item, value in found.items() if item % 5} == {n: n * n for n in range(40) if n % 5}
    assert all(isinstance(found[n], Failure) and found[n].detail == str(n) for n in range(0, 40, 5))
    assert 1 < most[0] <= 3


def test_items_are_taken_as_there_is_room():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with closing(in_parallel(lambda item: item, items(), 2, lambda: None)) as results:
        next(results)
        assert len(taken) <= 4
    assert len(taken) < 100


@pytest.mark.parametrize("where", ["in the work", "where results are read"])
def test_another_error_ends_all_of_it(where):
    ended, begun = threading.Event(), []

    def work(item):
        begun.append(item)
        if item == 3 and where == "in the work":
            raise ValueError("no more")
        if item > 3:
            ended.wait(10)  # a request under way, which is hung up
        return item

    def run():
        with closing(in_parallel(work, range(1000), 2, ended.set)) as results:
            for item, _ in results:
                if item == 3:
                    raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        run()
    assert ended.is_set()
    assert len(begun) < 20


def test_patience_ends_with_a_server_that_is_down_and_bears_one_that_refuses():
    down, refused = Failure("timeout", "", transient=True), Failure("HTTP 400", "")
    patience = Patience("data.server.url='x'", 1)
    for _ in range(3):
        for _ in range(LEAST_PATIENCE - 1):
            patience.failed(down)
        patience.succeeded()
    for _ in range(3 * LEAST_PATIENCE):
        patience.failed(refused)
    with pytest.raises(
        ValueError, match=r"data\.server\.url='x': \d+ prompts in a row have no answer, the last for tim"
    ):
        patience.failed(down)
    fresh = Patience("x", 1)
    for _ in range(LEAST_PATIENCE - 1):
        fresh.failed(refused)
    with pytest.raises(ValueError, match="have no answer"):
        fresh.failed(refused)


def test_the_command_for_hidden_states_counts_layers_as_the_engine_does():
    words = serve_answers("my models/v", "v", "127.0.0.1", 8000, 4096)
    assert shlex.split(shlex.join(words)) == words
    assert words[words.index("--model") + 1] == "my models/v"
    more = serve_states(words, "/tmp/a b", [1, 8, 27], last=30)
    asked = json.loads(more[more.index("--speculative-config") + 1])
    assert asked["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"] == [2, 9, 28, 30]
    writes = json.loads(more[more.index("--kv-transfer-config") + 1])
    assert writes["kv_connector_extra_config"] == {"shared_storage_path": "/tmp/a b"}
    assert more[: len(words)] == words


def test_a_recipe_and_an_export_give_the_command_that_decodes_with_it(capsys, tmp_path):
    recipe = str(ROOT / "recipes/tiny.yaml")
    make_memorising("llama").save_pretrained(tmp_path / "source")
    for layout in ("canonical", "speculators", "transformers"):
        convert(tmp_path / "source", tmp_path / layout, layout, verifier="tiny-llama")
    main(["engine", recipe])
    plain = shlex.split(capsys.readouterr().out)
    for layout in ("canonical", "speculators"):
        main(["engine", recipe, "--drafter", str(tmp_path / layout)])
        *words, flag, asked = shlex.split(capsys.readouterr().out)
        assert (words, flag) == (plain, "--speculative-config")
        assert json.loads(asked) == {"method": "dflash", "model": str(tmp_path / layout), "num_speculative_tokens": 3}
    with pytest.raises(SystemExit, match="of the transformers layout, vLLM reads canonical and speculators; convert"):
        main(["engine", recipe, "--drafter", str(tmp_path / "transformers")])


def test_a_recipe_gives_the_command(capsys):
    recipe, name = str(ROOT / "recipes/tiny.yaml"), "data.server.model=mine"
    main(["engine", recipe, name, "--port", "9000"])
    answers = shlex.split(capsys.readouterr().out)
    assert answers[answers.index("--served-model-name") + 1] == "mine"
    assert answers[answers.index("--port") + 1] == "9000"
    assert answers[answers.index("--host") + 1] == "127.0.0.1"
    config = load_as(AlignmentConfig, recipe)
    for more, last in ([], []), (["training.labels=verifier"], [6]):
        main(["engine", recipe, name, "--port", "9000", "--states", "a b", "drafter.tap_layers=[0,2]", *more])
        states = shlex.split(capsys.readouterr().out)
        shorter = answers.copy()
        shorter[answers.index("--max-model-len") + 1] = str(config.data.sequence_length + 1)
        assert states == serve_states(shorter, "a b", [0, 2], *last)
    assert not config.needs_states
    elsewhere = ["verifier.body=none", "data.taps=files", "data.tap_files.path=x", "drafter.start=random"]
    main(["engine", recipe, "--states", "x", "--connector", "mine:Writer", "--more", "--seed 3", *elsewhere])
    states = shlex.split(capsys.readouterr().out)
    assert states[-2:] == ["--seed", "3"]
    assert json.loads(states[states.index("--kv-transfer-config") + 1])["kv_connector_module_path"] == "mine"
    asked = json.loads(states[states.index("--speculative-config") + 1])
    assert asked["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"][-1] == 6


SERVER = """#!/bin/sh
exec {python} - "$@" << 'CODE'
import http.server, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
CODE
"""


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C, of a shell's background"],
)
def test_a_started_server_ends_with_the_command_and_all_that_it_started(tmp_path, monkeypatch, number, ignored):
    program, port, output = tmp_path / "python", free_port(), tmp_path / "logs/engine.log"
    program.write_text(SERVER.format(python=sys.executable))
    program.chmod(0o755)
    ready, ended, told, vain = threading.Event(), threading.Event(), [], []

    def noting(*words, **_):
        told.append(" ".join(map(str, words)))
        if "ready at" in told[-1]:
            ready.set()

    def end():
        ready.wait(60)
        os.kill(os.getpid(), number)
        if not ended.wait(20):  # the test fails, and waits no longer
            vain.append(number)
            os.killpg(os.getpgid(int(output.read_text().split()[1])), signal.SIGKILL)

    monkeypatch.setattr("builtins.print", noting)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    words = ["--start", "--python", str(program), "--port", str(port), "--log", str(output), "--patience", "60"]
    try:
        assert main(["engine", str(ROOT / "recipes/tiny.yaml"), *words]) == 0
        assert signal.getsignal(signal.SIGINT) is (signal.SIG_IGN if ignored else before)
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert vain == []
    assert any(f"ready at http://127.0.0.1:{port}/v1; Ctrl-C ends it" in line for line in told)
    pid = int(output.read_text().split()[1])
    deadline = time.monotonic() + 30
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_does_not_come_up_is_said_in_a_line(tmp_path):
    port, output = free_port(), tmp_path / "log"
    failing = [sys.executable, "-c", "import sys; print('boom'); sys.exit(3)"]
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    cases = [
        (failing, "127.0.0.1", rf"engine: ended with 3 before it answered \(boom\); see {output}"),
        (silent, "127.0.0.1", "engine: has not answered for 0.5 s"),
        (["no-such-program"], "127.0.0.1", "python='no-such-program': no such program"),
        (silent, "0.0.0.0", "host='0.0.0.0': --start serves this machine alone"),
    ]
    for words, host, said in cases:
        with pytest.raises(ValueError, match=said), running(words, host, port, output, 0.5 if words is silent else 60):
            pytest.fail("it came up")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(ValueError, match=f"port={port}: something listens there already"):
            with running(silent, "127.0.0.1", port, output, 1):
                pytest.fail("it came up")


@pytest.mark.parametrize("layout", ["canonical", "speculators", "transformers"])
def test_commands_that_serve_an_export_quote_paths(layout):
    export, verifier = "/my runs/it's/export", "/my models/v"
    commands = serve_commands(export, layout, {"block_size": 8}, verifier)
    for engine in ("vLLM", "SGLang"):
        for line in commands[engine].splitlines():
            words = shlex.split(line)
            paths = [word for word in words if "/" in word and not word.startswith("{")]
            assert paths
            assert all(word.startswith((export, verifier)) for word in paths)
            asked = [json.loads(word) for word in words if word.startswith("{")]
            assert all(each["model"].startswith(export) for each in asked)
    python = "\n".join(line for line in commands["transformers"].splitlines() if not line.startswith("#"))
    compile(python, "served", "exec")
    assert json.dumps(verifier) in python


@pytest.mark.parametrize("layout", ["canonical", "speculators", "transformers"])
def test_an_engine_is_given_a_layout_that_it_reads(layout):
    """Of transformers' layout vLLM 0.32 reads no taps, and its first draft fails: it is converted first."""
    commands = serve_commands("export", layout, {"block_size": 8}, "v")
    first = {engine: command.splitlines()[0].lstrip("# ") for engine, command in commands.items()}
    reads = {"vLLM": ("canonical", "speculators"), "SGLang": ("canonical",), "transformers": ("transformers",)}
    for engine, layouts in reads.items():
        converts = f"drafter export export export-{layouts[0]} --layout {layouts[0]}"
        assert (first[engine] == converts) == (layout not in layouts)
        assert (f"export-{layouts[0]}" in commands[engine]) == (layout not in layouts)
