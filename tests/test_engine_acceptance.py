"""Tokens per cycle by a server's own counters."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import make_memorising, make_verifier

from drafter.__main__ import main
from drafter.engine.acceptance import Served, read_counters, served_acceptance
from drafter.engine.client import Client
from drafter.export import export

TEXT = """# HELP vllm:spec_decode_num_drafts_total Number of drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{{engine="0",model_name="m"}} {drafts}.0
vllm:spec_decode_num_drafts_created{{engine="0",model_name="m"}} 1.7e+09
vllm:spec_decode_num_draft_tokens_total{{engine="0",model_name="m"}} {drafted}.0
vllm:spec_decode_num_accepted_tokens_total{{engine="0",model_name="m"}} {accepted}.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="0"}} {first}.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{{engine="0",model_name="m",position="1"}} {second}.0
vllm:spec_decode_num_accepted_tokens_per_pos_created{{engine="0",model_name="m",position="0"}} 1.7e+09
vllm:num_requests_running{{engine="0"}} 0.0
"""


def test_counters_are_read_of_all_engines_together():
    one = TEXT.format(drafts=111, drafted=222, accepted=45, first=30, second=15)
    assert read_counters(one) == Served(111, 45, (30, 15))
    both = read_counters(one + one.replace('engine="0"', 'engine="1"'))
    assert both == Served(222, 90, (60, 30))
    assert both.tokens_per_cycle == 1 + 90 / 222
    assert both.since(read_counters(one)) == Served(111, 45, (30, 15))
    assert read_counters(one).since(Served(0, 0, ())) == Served(111, 45, (30, 15))  # slots appear as they are used
    assert read_counters(one.replace("_total", "")) == Served(111, 45, (30, 15))  # of another version
    with pytest.raises(ValueError, match="engine: it counts no drafts; start vLLM with the drafter, as"):
        read_counters('vllm:num_requests_running{engine="0"} 0.0\n')


@contextmanager
def counting(asked, broken=False):
    """A server that counts 3 cycles and 4 accepted tokens for each prompt that it is given."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, status, content):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            n = len(asked)
            counts = TEXT.format(drafts=7 + 3 * n, drafted=6 * n, accepted=2 + 4 * n, first=2 + 3 * n, second=n)
            self.reply(404 if self.path != "/metrics" else 200, counts.encode())

        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.reply(400 if broken else 200, b'{"choices": []}')

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_what_a_server_counts_meanwhile_is_the_prompts():
    asked = []
    with counting(asked) as url:
        found = served_acceptance(Client(url, 10.0, 0), "m", [[1, 2], [3], [4, 5]], 16, concurrency=2)
    assert found == Served(9, 12, (9, 3))
    assert sorted(body["prompt"] for _, body in asked) == [[1, 2], [3], [4, 5]]
    known = {"model": "m", "max_tokens": 16, "temperature": 0.0}
    assert all(path == "/v1/completions" and known.items() <= body.items() for path, body in asked)
    with counting([], broken=True) as url:
        with pytest.raises(ValueError, match=r"engine='http.*': a prompt of \d tokens has no answer \(HTTP 400"):
            served_acceptance(Client(url, 10.0, 0), "m", [[1, 2]], 16, concurrency=2)
    with pytest.raises(ValueError, match=r"engine='http://127.0.0.1:9/v1': its /metrics can't be read"):
        served_acceptance(Client("http://127.0.0.1:9/v1", 1.0, 0), "m", [[1]], 16, concurrency=1)


def test_evaluate_puts_the_engines_figure_beside_ours(tmp_path, capsys):
    export(make_memorising("llama"), tmp_path / "export", {})
    (tmp_path / "mine.jsonl").write_text('{"prompt": "hi"}\n{"prompt": "why"}\n')
    words = ["evaluate", str(tmp_path / "export"), "--verifier", "tiny-llama", "--suites", str(tmp_path / "mine.jsonl")]
    words += ["--max-new-tokens", "8", "--json", str(tmp_path / "found.json")]
    asked = []
    with counting(asked) as url:
        main([*words, "--engine", url])
    (line,) = json.loads((tmp_path / "found.json").read_text())["engine"]
    counted = line["accepted_by_engine"], line["cycles"], line["accepted_at_slot"]
    assert counted == (round(8 / 6, 4), 6, [1.0, round(2 / 6, 4)])
    here = json.loads((tmp_path / "found.json").read_text())["suites"]["mine"]["accepted_per_cycle"]
    assert line["accepted_here"] == round(here, 4)
    assert re.search(r"\| suite +\| accepted here +\| accepted by engine", capsys.readouterr().out)
    verifier = make_verifier("llama")
    assert sorted(body["prompt"] for _, body in asked) == sorted(verifier.chat_ids(text) for text in ("hi", "why"))
    with pytest.raises(SystemExit):
        main([*words, "--engine", url, "--temperature", "1"])


def test_evaluate_asks_an_engine_without_a_model_here(tmp_path, capsys, monkeypatch):
    export(make_memorising("llama"), tmp_path / "export", {})
    (tmp_path / "mine.jsonl").write_text('{"prompt": "hi"}\n{"prompt": "why"}\n')
    words = ["evaluate", str(tmp_path / "export"), "--verifier", "tiny-llama", "--suites", str(tmp_path / "mine.jsonl")]
    words += ["--max-new-tokens", "8", "--json", str(tmp_path / "found.json"), "--by", "engine"]
    asked, verifier = [], make_verifier("llama")
    monkeypatch.setattr("drafter.verifier.Verifier.load", lambda *_, **__: pytest.fail("loaded"))
    with counting(asked) as url:
        main([*words, "--engine", url])
    (line,) = json.loads((tmp_path / "found.json").read_text())["engine"]
    assert (line["cycles"], line["tokens_per_cycle"]) == (6, round(1 + 8 / 6, 4))
    assert "accepted_here" not in line
    assert sorted(body["prompt"] for _, body in asked) == sorted(verifier.chat_ids(text) for text in ("hi", "why"))
    for wrong in ([], ["--engine", url, "--against", str(tmp_path / "export")]):
        with pytest.raises(SystemExit, match="by='engine': asks one server for one drafter"):
            main([*words, *wrong])
