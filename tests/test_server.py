"""Answers of a server that misbehaves: every fault is waited out, counted, or ends the run in one line."""

import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from conftest import make_verifier
from fault_server import serve
from test_answers import Killed

from drafter import answers
from drafter.answers import Store
from drafter.config import ServerConfig
from drafter.engine import client as clients
from drafter.engine.client import retry_after
from drafter.regenerate.answering import Drawn, answer_all
from drafter.regenerate.server import ServerAnswerer

TOKENIZER = make_verifier("llama").tokenizer
END = TOKENIZER.eos_token_id


def asked(*texts):
    return [{"source": f"{text}.txt", "kind": "chat", "prompt": text} for text in texts]


def prompt_tokens(body):
    return len(make_verifier("llama").chat_ids(body["messages"]))


def said(text):
    return TOKENIZER.encode(f"re: {text}")


def run(server, path, prompts, on_progress=lambda done, total: None, temperature=0.0, shard_prompts=100, **settings):
    given = {"url": server.url, "model": "m", "concurrency": 4, "retries": 3, "timeout": 30} | settings
    answerer = ServerAnswerer(ServerConfig(**given), TOKENIZER, 99, temperature, first_wait=0.01)
    store = Store(path, answerer.origin, shard_prompts)
    summary = answer_all(answerer, lambda: Drawn(prompts), store, on_progress)
    return summary, answers.read(path)[0], store.manifest.failures


def test_answers_are_the_servers_in_the_verifiers_tokens(tmp_path):
    with serve(prompt_tokens) as server:
        summary, rows, failures = run(server, tmp_path / "a", asked("x", "\u00fcber"))
    assert [row["answer_ids"] for row in rows] == [[*said("x"), END], [*said("\u00fcber"), END]]
    assert [row["stop"] for row in rows] == ["stop", "stop"]
    assert (summary["server_model"], summary["rows"], summary["failed"], failures) == ("m", 2, {}, [])
    assert summary["retokenised"] == 0
    assert "verifier" not in summary
    for body, headers in server.requests:
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 99, 0.0)
        assert not {"seed", "top_p", "return_token_ids"} & body.keys()
        assert "Authorization" not in headers


FAULTS = [
    429,
    (429, {"Retry-After": "0"}),
    500,
    502,
    503,
    408,
    "disconnect",
    "truncated",
    "hang",
    "drip",
    "drip before",
]


@pytest.mark.parametrize("fault", [*FAULTS, "garbage", "list", "nested", "other"], ids=str)
def test_a_passing_fault_is_waited_out(tmp_path, fault):
    with serve(prompt_tokens, x=[fault, fault]) as server:
        summary, rows, _ = run(server, tmp_path / "a", asked("x", "y"), timeout=0.15 if fault in FAULTS[-3:] else 5)
    assert (summary["rows"], summary["failed"]) == (2, {})
    assert server.asked() == {"x": 3, "y": 1}
    assert [row["prompt"] for row in rows] == ["x", "y"]


REASONS = {
    429: "HTTP 429",
    500: "HTTP 500",
    "disconnect": "connection",
    "hang": "timeout",
    "drip before": "timeout",
    "garbage": "malformed reply",
}


@pytest.mark.parametrize("fault", REASONS)
def test_a_lasting_fault_costs_its_row_and_no_other(tmp_path, fault, caplog):
    caplog.set_level(logging.WARNING)
    with serve(prompt_tokens, x=[fault] * 9) as server:
        prompts = asked("a", "x", "b", "c")
        summary, rows, failures = run(
            server, tmp_path / "a", prompts, timeout=0.15 if REASONS[fault] == "timeout" else 5
        )
    assert summary["failed"] == {REASONS[fault]: 1}
    assert [row["prompt"] for row in rows] == ["a", "b", "c"]
    assert server.asked() == {"a": 1, "b": 1, "c": 1, "x": 4}
    assert [(one["prompt"], one["source"], one["reason"]) for one in failures] == [(1, "x.txt", REASONS[fault])]
    assert f"prompt 1 (x.txt): {REASONS[fault]}: " in caplog.text
    assert server.dripped_out == 0


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (422, 1), (413, 1)])
def test_a_refused_request_is_not_sent_again(tmp_path, status, tries):
    with serve(prompt_tokens, x=[status] * 9) as server:
        summary, _, _ = run(server, tmp_path / "a", asked("x", "y"))
    assert summary["failed"] == {f"HTTP {status}": 1}
    assert server.asked() == {"x": tries, "y": 1}


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_what_no_request_can_mend_ends_the_run_at_once(tmp_path, status, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "sk-very-secret")
    with serve(prompt_tokens, **{"*": (status, {"Location": "http://elsewhere/"})}) as server:
        with pytest.raises(
            ValueError, match=rf"^data\.server\.url='{server.url}': HTTP {status} .*; check data\.server"
        ):
            run(server, tmp_path / "a", asked(*map(str, range(50))), api_key_env="SECRET_KEY")
    assert len(server.requests) <= 8


def test_the_key_is_sent_and_never_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SECRET_KEY", "sk-very-secret")
    leak = (400, {"X": "y"})
    with serve(prompt_tokens, x=[leak]) as server:
        monkeypatch.setattr("fault_server.Handler.send", told_the_key(server))
        _, _, failures = run(server, tmp_path / "a", asked("x", "y"), api_key_env="SECRET_KEY")
    assert all(headers["Authorization"] == "Bearer sk-very-secret" for _, headers in server.requests)
    assert failures[0]["detail"] == "the key ... is no good"
    assert "very-secret" not in caplog.text + "".join(
        path.read_bytes().decode("latin-1") for path in (tmp_path / "a").iterdir()
    )
    monkeypatch.setenv("SECRET_KEY", "sk-very-secret\n")  # as files end
    with pytest.raises(ValueError, match=r"^data\.server\.api_key_env='SECRET_KEY': holds blanks or line breaks; "):
        run(server, tmp_path / "b", asked("x"), api_key_env="SECRET_KEY")
    monkeypatch.delenv("SECRET_KEY")
    with pytest.raises(ValueError, match=r"data\.server\.api_key_env='SECRET_KEY': no such variable; export the key"):
        run(server, tmp_path / "b", asked("x"), api_key_env="SECRET_KEY")


def told_the_key(server):
    from fault_server import Handler

    send = Handler.send

    def tell(self, status, content, headers=None):
        key = self.headers["Authorization"].removeprefix("Bearer ")
        send(self, status, f"the key {key} is no good".encode() if status == 400 else content, headers)

    return tell


def test_all_wait_as_long_as_one_is_asked_to(tmp_path):
    with serve(prompt_tokens, x=[(429, {"Retry-After": "0.4"})]) as server:
        run(server, tmp_path / "a", asked("x", *"abcdefgh"), concurrency=1)
    pauses = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert server.asked()["x"] == 2
    assert pauses[0] >= 0.4
    assert server.requests[1][0]["messages"][-1]["content"] == "x"


def test_a_server_that_asks_for_hours_is_not_waited_for(tmp_path):
    with serve(prompt_tokens, x=[(503, {"Retry-After": "7200"})]) as server:
        summary, _, failures = run(server, tmp_path / "a", asked("x", "y"))
    assert summary["failed"] == {"HTTP 503": 1}
    assert failures[0]["detail"] == "the server asks to wait 7200 s"


def test_retry_after_is_seconds_or_a_date():
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("2.5") == 2.5
    assert retry_after("-3") == 0.0
    assert 25 < retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)) <= 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize("header", ["soon", "nan", "Fri, 1 Jan 99999999999999999999 00:00:00 GMT"])
def test_a_wish_that_is_none_is_no_wish(header):
    assert not retry_after(header)


def test_pauses_grow_and_are_jittered(monkeypatch):
    waits = []
    client = clients.Client("http://127.0.0.1:9/v1", 1.0, 9)
    monkeypatch.setattr(client._stop, "wait", waits.append)
    monkeypatch.setattr(client, "_once", lambda *_: (_ for _ in ()).throw(clients.Failure("HTTP 500", "", True)))
    with pytest.raises(clients.Failure):
        client.post("chat/completions", {}, lambda reply: reply)
    for attempt, seconds in enumerate(waits):
        assert min(60, 2**attempt) / 2 <= seconds <= min(60, 2**attempt)
    assert len(waits) == 9
    assert len(set(waits)) == 9


def test_requests_at_a_time_are_bounded(tmp_path):
    texts = [f"{number}" for number in range(24)]
    with serve(prompt_tokens, **{"*": "together"}) as server:
        server.together = threading.Barrier(6)  # no reply before six wait for one
        _, rows, _ = run(server, tmp_path / "a", asked(*texts), concurrency=6)
    assert server.busiest == 6
    assert [row["prompt"] for row in rows] == texts


@pytest.mark.parametrize("fault", ["disconnect", 500, 422])
def test_a_server_that_only_fails_ends_the_run_and_loses_nothing(tmp_path, fault):
    texts = [f"{number}" for number in range(60)]
    with serve(prompt_tokens, **{"*": fault}) as server:
        with pytest.raises(
            ValueError, match=r"8 prompts in a row have no answer, .* is kept: mend it and run the same"
        ):
            run(server, tmp_path / "a", asked(*texts), retries=1)
        assert len(server.requests) < 40
        server.faults.clear()
        summary, rows, failures = run(server, tmp_path / "a", [], retries=1)
    assert [row["prompt"] for row in rows] == texts
    assert (summary["failed"], failures) == ({}, [])


def test_no_server_at_all_ends_in_one_line(tmp_path):
    with serve(prompt_tokens) as server:
        pass
    with pytest.raises(ValueError, match=r"8 prompts in a row have no answer, the last for connection: .*refused"):
        run(server, tmp_path / "a", asked(*map(str, range(9))))


def test_a_kill_ends_what_is_under_way_and_a_resumed_run_asks_only_the_rest(tmp_path):
    texts = [f"{number}" for number in range(20)]

    def progress(done, total):
        while done == 7 and not server.hanging:
            time.sleep(0.01)
        if done >= 7:
            raise Killed

    with serve(prompt_tokens, **{"8": ["hang"]}) as server:
        with pytest.raises(Killed):
            run(server, tmp_path / "a", asked(*texts), progress, timeout=30, shard_prompts=6)
        assert server.hanging == 1  # still: the request was cut, not waited for
    lines = (tmp_path / "a/journal-00001.jsonl").read_text().splitlines()
    kept = {texts[json.loads(line)["prompt"] + 6] for line in lines} | set(texts[:6])
    with serve(prompt_tokens) as server:  # another one: what the first run still sent is not counted
        _, rows, _ = run(server, tmp_path / "a", [], shard_prompts=6)
    assert [row["prompt"] for row in rows] == texts
    assert len(kept) >= 7
    assert server.asked() == {text: 1 for text in texts if text not in kept}


def test_conversations_and_seeds(tmp_path):
    turns = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]
    prompts = [{"source": "s", "kind": "chat", "turns": turns}, *asked("x")]
    with serve(prompt_tokens) as server:
        _, rows, _ = run(server, tmp_path / "a", prompts, temperature=0.7)
    assert [row["answer_ids"] for row in rows] == [[*said(text), END] for text in ("one", "two", "three", "x")]
    assert [len(json.loads(row["messages"])) for row in rows[1:3]] == [3, 5]
    assert json.loads(rows[2]["messages"])[1] == {"role": "assistant", "content": "re: one"}
    assert {body["top_p"] for body, _ in server.requests} == {1.0}
    assert len({body["seed"] for body, _ in server.requests}) == 4


def test_a_later_turn_without_room_leaves_the_turns_before(tmp_path):
    turns = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]
    with serve(prompt_tokens, two=[400], x=[400]) as server:
        summary, rows, _ = run(server, tmp_path / "a", [{"source": "s", "kind": "c", "turns": turns}, *asked("x")])
    assert [row["prompt"] for row in rows] == ["one"]
    assert summary["failed"] == {"HTTP 400": 1}


REPLIES = {
    "cut": ({"choice": {"finish_reason": "length"}}, said("x"), "length"),
    "with reasoning": ({"message": {"reasoning_content": "hm"}}, "reasoning apart", None),
    "a call": ({"choice": {"finish_reason": "tool_calls"}, "message": {"content": None}}, "ended by tool_calls", None),
    "filtered": ({"choice": {"finish_reason": "content_filter"}}, "ended by content_filter", None),
    "a text in parts": ({"message": {"content": [{"type": "text", "text": "hi"}]}}, "malformed reply", None),
    "a count in words": ({"usage": {"completion_tokens": "three"}}, "malformed reply", None),
    "ids of no prompt": ({"reply": {"prompt_token_ids": 3}}, "malformed reply", None),
    "no text": ({"message": {"content": "\ud800"}}, "malformed reply", None),
    "empty": ({"message": {"content": None}, "usage": {"completion_tokens": 1}}, [END], "stop"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies_of_every_shape(tmp_path, name):
    fault, expected, stop = REPLIES[name]
    with serve(prompt_tokens, x=[fault] * 9) as server:
        summary, rows, _ = run(server, tmp_path / "a", asked("x", "y"))
    if stop is None:
        assert summary["failed"] == {expected: 1}
    else:
        assert (rows[0]["answer_ids"], rows[0]["stop"]) == (expected, stop)


def test_text_that_was_made_of_other_tokens_is_counted(tmp_path):
    with serve(
        prompt_tokens, x=[{"usage": {"completion_tokens": 3}}], y=[{"usage": {"completion_tokens": 5}}]
    ) as server:
        summary, _, _ = run(server, tmp_path / "a", asked("x", "y", "z"))
    assert summary["retokenised"] == 1


def test_token_ids_are_taken_as_they_are(tmp_path):
    merged = [7, 8, 9]
    given = {"choice": {"token_ids": merged}, "message": {"reasoning_content": "hm"}}
    ended = {"choice": {"token_ids": [*merged, END]}}
    with serve(prompt_tokens, x=[given], y=[ended]) as server:
        summary, rows, _ = run(server, tmp_path / "a", asked("x", "y", "z"), token_ids=True)
    assert [row["answer_ids"] for row in rows] == [[*merged, END], [*merged, END]]
    assert summary["failed"] == {"no token ids": 1}
    assert all(body["return_token_ids"] is True for body, _ in server.requests)


@pytest.mark.parametrize("given", [True, "abc", ["a"], [None], [-1], [1.5], [10**12], {"a": 1}], ids=str)
def test_ids_that_are_none_cost_their_row(tmp_path, given):
    with serve(prompt_tokens, x=[{"choice": {"token_ids": given}}] * 9, y=[{"choice": {"token_ids": [7]}}]) as server:
        summary, rows, _ = run(server, tmp_path / "a", asked("x", "y"), token_ids=True)
    assert (summary["failed"], [row["answer_ids"] for row in rows]) == ({"malformed reply": 1}, [[7, END]])


def test_a_server_with_another_template_is_refused(tmp_path):
    with serve(lambda body: prompt_tokens(body) + 1) as server:
        with pytest.raises(ValueError, match=r"data\.server\.model='m': reads a prompt as \d+ tokens, the verifier's"):
            run(server, tmp_path / "a", asked("x"))
        assert run(server, tmp_path / "b", asked("x"), check_prompts=False)[0]["rows"] == 1
