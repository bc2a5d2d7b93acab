"""A small OpenAI-compatible server on loopback that misbehaves as told."""

import json
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultServer(ThreadingHTTPServer):
    """Answers "re: <last user turn>", after the faults that are listed for that turn.

    Attributes:
        faults: last user turn → what becomes of its first requests, one after the other; "*" for all others.
        requests: each request's body and headers, in order of arrival.
        busiest: the most requests at a time.
        hanging: requests that hang now.
        dripped_out: replies that dripped to the last drop, since nobody hung up.
        together: where requests of the fault of that name wait until as many are there as it has parties.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.times = {}, [], []
        self.count_prompt, self.busy, self.busiest, self.lock = None, 0, 0, threading.Lock()
        self.released, self.together, self.hanging = threading.Event(), threading.Barrier(1), 0
        self.dripped_out = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self):
        """How often each last turn was asked."""
        return Counter(body["messages"][-1]["content"] for body, _ in self.requests)

    def handle_error(self, request, client_address):
        """Clients hang up; that is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((body, dict(self.headers)))
            server.times.append(time.monotonic())
            server.busy += 1
            self.counted = True
            server.busiest = max(server.busiest, server.busy)
            waiting = server.faults.get(body["messages"][-1]["content"])
            fault = waiting.popleft() if waiting else None
            fault = fault or server.faults.get("*")
        try:
            self.answer(body, fault)
        finally:
            self.leave()
            self.close_connection = True

    def leave(self):
        """Count no more: before the reply goes out, since its reader may ask anew before this thread runs again."""
        with self.server.lock:
            self.server.busy -= self.counted
            self.counted = False

    def answer(self, body, fault):
        if isinstance(fault, int):
            return self.send(fault, b'{"error": "told to"}')
        if isinstance(fault, tuple):
            status, headers = fault
            return self.send(status, b"busy", headers)
        if fault == "disconnect":
            return None
        if fault == "hang":
            self.server.hanging += 1
            self.server.released.wait(20)
            self.server.hanging -= 1
            return None
        if fault in ("drip", "drip before"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            if fault == "drip":
                self.end_headers()
            self.flush_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                self.wfile.flush()
                if self.server.released.wait(0.05):
                    return None
            self.server.dripped_out += 1
            return None
        if fault == "together":
            self.server.together.wait(20)
        reply = json.dumps(self.completion(body, fault if isinstance(fault, dict) else {})).encode()
        if fault == "truncated":
            return self.send(200, reply[:20], {"Content-Length": str(len(reply))})
        if isinstance(fault, str):
            other = {"garbage": b"<html>oops</html>", "list": b"[]", "nested": b"[" * 10**5, "other": b'{"a": 1}'}
            reply = other.get(fault, reply)
        return self.send(200, reply)

    def completion(self, body, changes):
        text = f"re: {body['messages'][-1]['content']}"
        usage = {"prompt_tokens": self.server.count_prompt(body), "completion_tokens": len(text.encode()) + 1}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        message = choice["message"] | changes.get("message", {})
        usage = usage | changes.get("usage", {})
        choices = [choice | changes.get("choice", {}) | {"message": message}]
        return {"choices": choices, "usage": usage} | changes.get("reply", {})

    def send(self, status, content, headers=None):
        self.leave()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve(count_prompt, **faults):
    """A running server.

    Args:
        count_prompt: request body → tokens of its prompt.
        faults: as the attribute; a list each.
    """
    server = FaultServer()
    server.count_prompt = count_prompt
    server.faults = {turn: deque(each) if isinstance(each, list) else each for turn, each in faults.items()}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
