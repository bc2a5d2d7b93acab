"""A server on loopback that writes hidden states as vLLM does, and misbehaves as told."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from safetensors.torch import save_file


class StateServer(ThreadingHTTPServer):
    """Writes what `states` says of the ids that it is given, after the faults that are listed.

    Attributes:
        faults: what becomes of the first requests, one after the other: a status, a name, or what becomes of tensors.
        asked: ids of each request, in order of arrival.
        busiest: the most requests at a time.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, states, folder, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.states, self.folder, self.faults, self.asked = states, folder, [], []
        self.busy, self.busiest, self.on_request = 0, 0, lambda number: None
        self.lock, self.computing = threading.Lock(), threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Clients hang up; that is no news."""

    def end(self):
        """Hang up, as a killed server does."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body["prompt"])
            number = len(server.asked)
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            fault = server.faults.pop(0) if server.faults else None
        self.counted = True
        try:
            server.on_request(number)
            self.answer(body, number, fault)
        finally:
            self.leave()

    def leave(self):
        """Count no more: before the reply goes out, since its reader may ask anew before this thread runs again."""
        with self.server.lock:
            self.server.busy -= self.counted
            self.counted = False

    def answer(self, body, number, fault):
        if fault == "hang up":
            return
        if isinstance(fault, int):
            self.reply(fault, {"error": "told to"})
            return
        path = self.server.folder / f"cmpl-{self.server.server_port}-{number}.safetensors"
        with self.server.computing:  # a verifier's hooks are one thread's
            found = self.server.states(body["prompt"])
        tensors = {"hidden_states": found, "token_ids": torch.tensor(body["prompt"])}
        tensors = fault(tensors) if callable(fault) else tensors
        save_file({name: each.contiguous() for name, each in tensors.items()}, path)
        if fault == "missing":
            path.unlink()
        if fault == "truncated":
            path.write_bytes(path.read_bytes()[:-40])
        named = {"plain": {}, "a list": [str(path)]}.get(fault, {"hidden_states_path": str(path)})
        self.reply(200, {"choices": [{"text": ""}], "kv_transfer_params": named})

    def reply(self, status, content):
        text = json.dumps(content).encode()
        self.leave()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serve(states, folder, port=0):
    """A running server.

    Args:
        states: ids → hidden states [S, layers, D].
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = StateServer(states, folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.end()
        thread.join()
