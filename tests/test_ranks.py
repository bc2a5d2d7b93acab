"""Several processes train one drafter: each row is seen by one of them, and all hold the same weights."""

import json
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


def one_rank(rank, port, words, folder):
    """What the launcher of several processes starts: a fit that notes the rows of each step."""
    place = {"LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
    seen, step = [], DrafterModule.training_step

    def noting(self, batch, index):
        seen.append(batch.rows.ids[:, 0].tolist())
        return step(self, batch, index)

    DrafterModule.training_step = noting
    torch.set_num_threads(1)
    config = load(words[0], words[1:])
    verifier = make_verifier("llama")
    module = DrafterModule(config, make_drafter(verifier), verifier, [])
    batches = Feed(config, make_rows(), None, LocalTaps(verifier, module.drafter.tap_layers), WORLD)
    fit(module, batches, config.directory, config.training, MONITOR)
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    torch.save(module.drafter.state_dict(), folder / f"weights-{rank}.pt")
    os._exit(0)  # now and then a thread of gloo's, still there, would abort an ordinary exit


def test_two_ranks_of_two_workers_see_every_row_once_and_end_alike(tiny_words, tmp_path):
    words = tiny_words(
        tmp_path,
        "training.devices=2",
        "training.strategy=ddp",
        f"training.workers={WORKERS}",
        f"training.rows={PER_STEP}",
        "training.max_steps=6",
        "training.validate_every=100",
        "data.taps=online",
    )
    make_answers("llama")
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
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(WORLD)]
    assert [len(steps) for steps in seen] == [6, 6]
    rows = Counter(row for steps in seen for step in steps for row in step)
    assert rows == dict.fromkeys(range(3, 27), 1)
    one, other = (torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in range(WORLD))
    assert all(torch.equal(one[name], weight) for name, weight in other.items())


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
