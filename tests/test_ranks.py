"""Several processes train one drafter: each row is seen by one of them, and all hold the same weights."""

import multiprocessing
import os
import socket
from collections import Counter

import pytest
import torch
from conftest import make_answers, make_drafter, make_prompts, make_verifier

from drafter.config import load
from drafter.data.rows import Row
from drafter.machine.ranks import lightning_devices, own_device, ranks
from drafter.taps import LocalTaps
from drafter.training.batches.feed import Feed
from drafter.training.fitting import fit
from drafter.training.module import MONITOR, DrafterModule

WORLD, WORKERS, PER_STEP = 2, 2, 2


def make_rows():
    """24 rows, each with a first token of its own."""
    pairs = list(zip(make_prompts(), make_answers("llama"), strict=True)) * 4
    return [Row.of([3 + number, *prompt], answer) for number, (prompt, answer) in enumerate(pairs)]


def trained(words, world):
    """Fit a drafter; returns the first token of each row of each step, the objectives, and the weights."""
    seen, losses, step = [], [], DrafterModule.training_step

    def noting(self, batch, index):
        loss = step(self, batch, index)
        seen.append(batch.rows.ids[:, 0].tolist())
        losses.append(loss.item())
        return loss

    config = load(words[0], words[1:])
    verifier = make_verifier("llama")
    module = DrafterModule(config, make_drafter(verifier), verifier, [])
    batches = Feed(config, make_rows(), None, LocalTaps(verifier, module.drafter.tap_layers), world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DrafterModule, "training_step", noting)
        fit(module, batches, config.directory, config.training, MONITOR)
    return seen, losses, module.drafter.state_dict()


def one_rank(rank, port, words, folder):
    """What the launcher of several processes starts."""
    place = {"LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    torch.save(trained(words, WORLD), folder / f"rank-{rank}.pt")
    os._exit(0)  # now and then a thread of gloo's, still there, would abort an ordinary exit


def words_of(tiny_words, folder, *words):
    """Six steps of four packed rows, with answers of many lengths and a loss whose weight depends on the drafter."""
    settings = ["training.max_steps=6", "training.validate_every=100", "data.taps=online", "drafter.vocabulary=full"]
    return tiny_words(folder, *settings, "losses.first_error.weight=0.5", *words)


@pytest.mark.parametrize("packing", ["false", "true"], ids=["padded", "packed"])
def test_two_ranks_of_two_workers_train_as_one_rank_does(tiny_words, tmp_path, packing):
    packed = [f"data.packing={packing}", "data.sequence_length=200"]
    make_answers("llama")
    alone = trained(words_of(tiny_words, tmp_path / "alone", f"training.rows={WORLD * PER_STEP}", *packed), 1)
    shared = ["training.devices=2", "training.strategy=ddp", f"training.workers={WORKERS}"]
    words = words_of(tiny_words, tmp_path / "ranks", f"training.rows={PER_STEP}", *shared, *packed)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_rank, args=(rank, port, words, tmp_path)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    seen, losses, weights = zip(*(torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(WORLD)), strict=True)
    for step, (one, other) in enumerate(zip(*seen, strict=True)):
        assert sorted(one + other) == sorted(alone[0][step])
    rows = Counter(row for steps in seen for step in steps for row in step)
    assert set(rows.values()) == {1} or packing == "true"
    assert torch.tensor(losses).mean(0).tolist() == pytest.approx(alone[1], rel=1e-5)
    for name, weight in alone[2].items():
        torch.testing.assert_close(weights[0][name], weight, rtol=1e-5, atol=1e-5)
        assert torch.equal(weights[0][name], weights[1][name])


@pytest.mark.parametrize(
    ("devices", "device", "world", "own", "told"),
    [
        ("1", "cuda", 1, "cuda", 1),
        ("1", "cuda:3", 1, "cuda:3", [3]),
        ("4", "cuda", 4, "cuda:1", 4),
        ("2,5,6", "cuda", 3, "cuda:5", "2,5,6"),
        ("2", "cpu", 2, "cpu", 2),
        ("auto", "cpu", 1, "cpu", "auto"),
    ],
)
def test_each_rank_has_the_device_that_lightning_trains_it_on(monkeypatch, devices, device, world, own, told):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks(devices, device) == world
    assert own_device(devices, device) == own
    assert lightning_devices(devices, device) == told
