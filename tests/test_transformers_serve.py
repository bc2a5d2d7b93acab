"""A real `transformers serve` on loopback, with a tiny random chat model: its answers are those made here."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection

import pytest
import torch
from conftest import ROOT
from transformers.utils.import_utils import is_serve_available

from drafter import answers
from drafter.__main__ import main
from drafter.verifier import tiny
from drafter.verifier.tokenizer import tokenizer_hash

pytestmark = pytest.mark.skipif(not is_serve_available(), reason="needs transformers[serving]; `make install` has it")


@pytest.fixture
def settings(model, tmp_path):
    """A recipe and overrides: sixteen questions."""
    lines = [json.dumps({"prompt": f"What is {number} + {number}?"}) for number in range(16)]
    (tmp_path / "asked.jsonl").write_text("\n".join(lines))
    source = f"data.sources=[{{kind: file, path: {tmp_path / 'asked.jsonl'}}}]"
    return [str(ROOT / "recipes/tiny.yaml"), f"verifier.source={model}", source, "data.max_new_tokens=20"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a model that writes nothing but printable ASCII, so that its text says which tokens it wrote."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = tiny.build("llama")
    written = tokenizer.encode("".join(map(chr, range(33, 127))))
    weight = model.get_input_embeddings().weight  # the head too
    with torch.no_grad():
        silent = torch.ones(len(weight), dtype=torch.bool)
        silent[written] = False
        weight[silent] = 0
        weight[tokenizer.eos_token_id] = 1.3 * weight[written[3]]  # a likely token: most answers end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    """The base of a running server, which is ended by its own process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    told = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with told.open("w") as log:
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not healthy(port):
            assert process.poll() is None, told.read_text()
            assert time.monotonic() < deadline, told.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(port):
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_its_answers_are_the_verifiers(settings, model, url, tmp_path):
    main(["regenerate", *settings, "--out", str(tmp_path / "here")])
    there = [f"data.server.url={url}", f"data.server.model={model}", "data.server.concurrency=3"]
    main(["regenerate", *settings, *there, "--out", str(tmp_path / "there")])
    rows, manifest = answers.read(tmp_path / "there")
    assert rows == answers.read(tmp_path / "here")[0]
    assert {row["stop"] for row in rows} == {"stop", "length"}
    assert (manifest["failed"], manifest["retokenised"], manifest["rows"]) == ({}, 0, 16)
    assert manifest["tokenizer"] == tokenizer_hash(tiny.build("llama")[1])


def test_a_model_that_it_has_not_ends_in_one_line(settings, url, tmp_path):
    words = [*settings, f"data.server.url={url}", "data.server.model=other"]
    with pytest.raises(SystemExit, match=r"not one prompt was answered \(16 of HTTP 400; .*requested 'other'"):
        main(["regenerate", *words, "--out", str(tmp_path / "other")])
