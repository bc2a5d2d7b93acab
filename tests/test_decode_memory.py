"""Nothing grows while an answer does: the caches are allocated once, and no cycle leaves a tensor behind."""

import gc
from contextlib import suppress

import pytest
import torch
from conftest import make_memorising, make_prompts, make_verifier

from drafter.attention import KVCache
from drafter.decode import SpeculativeDecoder


def live_bytes():
    """Memory of all tensors that are alive."""
    gc.collect()
    kept = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            with suppress(RuntimeError):  # what torch.compile traces with has no memory, and a test before may leave it
                kept[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    return sum(kept.values())


@pytest.mark.parametrize("tokens", [160, pytest.param(4096, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [{}, {"tree_nodes": 8}], ids=["chain", "tree"])
def test_memory_is_flat(how, tokens, monkeypatch):
    verifier = make_verifier("llama")
    monkeypatch.setattr(verifier.config, "max_position_embeddings", 8192)
    monkeypatch.setattr(verifier.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(verifier, "tokenizer", None)  # neither ends an answer
    decoder = SpeculativeDecoder(verifier, make_memorising("llama"), **how)
    seen, addresses, count = [], set(), 0
    attend = KVCache.attend

    def watch(self, *arguments, **settings):
        addresses.add((self.keys[0].data_ptr(), self.values[0].data_ptr()))
        return attend(self, *arguments, **settings)

    def measure(_, new):
        nonlocal count
        count += len(new)
        if count >= 60 and not seen:
            seen.append(live_bytes())
            monkeypatch.setattr(KVCache, "attend", watch)

    (found,) = decoder.generate(
        make_prompts()[:1], tokens, on_tokens=measure, on_end=lambda *_: seen.append(live_bytes())
    )
    assert len(found.token_ids) == tokens
    assert len(found.emitted) > tokens / 4
    mask = 9 * (tokens + 20)  # of the last step, one byte for each query and slot
    assert seen[1] - seen[0] <= mask
    assert len(addresses) == 2  # one cache for each model, never another
