"""What makes the host wait for the device within a training step: counted, and no more than is needed."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import make_answers, make_drafter, make_prompts, make_verifier, with_taps
from torch.utils._python_dispatch import TorchDispatchMode

from drafter.config import load
from drafter.data.rows import Row
from drafter.training.batches import Steps
from drafter.training.guard import Guard
from drafter.training.module import DrafterModule

READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero")


class Waits(TorchDispatchMode):
    """Counts operations whose result, or the size of it, the host must know."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.__name__.split(".")[0]
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if name in READS or by_mask:
            self.found[f"{name} by a mask" if by_mask else name] += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("vocabulary", "most"), [("full", 1), ("answers", 2)])
def test_a_step_that_is_not_logged_waits_for_little(tiny_words, tmp_path, vocabulary, most):
    words = tiny_words(tmp_path, "training.rows=3", "training.log_every=10", f"drafter.vocabulary={vocabulary}")
    config = load(words[0], words[1:])
    pairs = zip(make_prompts(), make_answers("llama"), strict=True)
    rows = [Row.of(prompt, answer) for prompt, answer in pairs]
    drafter = make_drafter(make_verifier("llama"))
    drafter.vocabulary = None if vocabulary == "full" else torch.arange(0, 288, 2)
    module = DrafterModule(config, drafter, make_verifier("llama"), [])
    module.trainer = SimpleNamespace(precision="32-true", global_step=3, loggers=[])
    module.log = lambda *_: None
    batch = with_taps(Steps(rows, None, config)[0], module)
    optimizer = module.configure_optimizers()["optimizer"]
    guard = Guard(config.training, tmp_path)
    with Waits() as waits:
        module.training_step(batch, 0).backward()
        guard.on_before_optimizer_step(module.trainer, module, optimizer)
        guard.on_train_batch_end(module.trainer, module, None, batch, 0)
    assert sum(waits.found.values()) <= most, waits.found
