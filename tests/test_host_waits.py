"""What makes the host wait for the device within a training step: counted, and no more than is needed."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import make_answers, make_drafter, make_prompts, make_verifier, with_taps
from torch.utils._python_dispatch import TorchDispatchMode

from drafter.config import load
from drafter.data.rows import Row, Rows
from drafter.training.batches import Steps
from drafter.training.batches.loader import loader
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


def made(tiny_words, tmp_path, vocabulary, step):
    """A module in a step of its training, its batch, and what it is told to log."""
    words = tiny_words(tmp_path, "training.rows=3", "training.log_every=10", f"drafter.vocabulary={vocabulary}")
    config = load(words[0], words[1:])
    pairs = zip(make_prompts(), make_answers("llama"), strict=True)
    rows = [Row.of(prompt, answer) for prompt, answer in pairs]
    drafter = make_drafter(make_verifier("llama"))
    drafter.vocabulary = None if vocabulary == "full" else torch.arange(0, 288, 2)
    module = DrafterModule(config, drafter, make_verifier("llama"), [])
    module.trainer = SimpleNamespace(precision="32-true", global_step=step, loggers=[])
    told = []
    module.log = lambda name, value, **how: told.append((name, how))
    module.log_dict = lambda values, **how: told.extend((name, how) for name in values)
    return module, with_taps(Steps(rows, None, config)[0], module), told


@pytest.mark.parametrize(("vocabulary", "most"), [("full", 1), ("answers", 2)])
def test_a_step_that_is_not_logged_waits_for_little(tiny_words, tmp_path, vocabulary, most):
    module, batch, told = made(tiny_words, tmp_path, vocabulary, step=3)
    config = module.config
    optimizer = module.configure_optimizers()["optimizer"]
    guard = Guard(config.training, tmp_path)
    with Waits() as waits:
        module.training_step(batch, 0).backward()
        guard.on_before_optimizer_step(module.trainer, module, optimizer)
        guard.on_train_batch_end(module.trainer, module, None, batch, 0)
    assert sum(waits.found.values()) <= most, waits.found
    assert [name for name, _ in told] == ["gradient_norm/all"]


def test_what_is_logged_is_not_exchanged_name_by_name(tiny_words, tmp_path):
    """Ranks exchange all figures of a logged step at once; `sync_dist` would make them wait for each."""
    module, batch, told = made(tiny_words, tmp_path, "full", step=9)
    module.training_step(batch, 0)
    assert len(told) > 5
    assert not [name for name, how in told if how.get("sync_dist")]


def test_a_sample_is_drawn_where_its_labels_are(tiny_words, tmp_path, monkeypatch):
    """Drawn by the host, it would have to be waited for."""
    head = made(tiny_words, tmp_path, "answers", step=3)[0].head
    where, draw = [], torch.randperm

    def drawing(count, *, generator, device=None):
        where.append((device, generator.device))
        return draw(count, generator=generator, device=device)

    monkeypatch.setattr(torch, "randperm", drawing)
    labels = torch.zeros(1, 2, 3, dtype=torch.long)
    head.draw(labels, labels == 0, "0 3", torch.float32)
    assert where == [(labels.device, labels.device)]


class Noted(torch.Tensor):
    """Says how it is moved."""

    def to(self, *where, **how):
        return where, how


def test_rows_reach_a_device_without_the_hosts_waiting(monkeypatch):
    """Out of pinned memory, the copy behind what the device is at."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loader(torch.utils.data.TensorDataset(torch.zeros(3)), 0, 3).pin_memory
    rows = Rows(*(torch.zeros(1, 2).as_subclass(Noted) for _ in range(3))).to(torch.device("cuda"))
    for place in (rows.ids, rows.supervised, rows.documents):
        assert place == ((torch.device("cuda"),), {"non_blocking": True})
