"""vLLM's connector that writes hidden states, for its CPU build: its own copies by CUDA's streams.

Named by `drafter engine RECIPE --states FOLDER --connector at_once:AtOnce`, with this folder on PYTHONPATH.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    extract_from_kv_cache,
)


class AtOnce(ExampleHiddenStatesConnector):
    """Copies and writes at once, then lets go of the file's lock."""

    def _submit_async_write(self, pending) -> None:
        offsets = torch.arange(self._block_size)
        slots = (offsets + torch.tensor(pending.block_ids)[:, None] * self._block_size).flatten()
        states = extract_from_kv_cache(self._kv_cache, slots, len(pending.token_ids)).contiguous()
        Path(pending.filename).parent.mkdir(parents=True, exist_ok=True)
        save_file({"hidden_states": states, "token_ids": pending.token_ids.clone()}, pending.filename)
        lock = self._lock_fds.pop(pending.req_id, None)
        if lock is not None:
            os.close(lock)
        self._req_copy_events[pending.req_id] = Done()


class Done:
    """An event that has happened."""

    def query(self) -> bool:
        return True
