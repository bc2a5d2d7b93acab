"""Several processes train one drafter: each row is seen by one of them, and all hold the same weights."""

import multiprocessing
import os
import re
import signal
import socket
from collections import Counter
from contextlib import suppress
from statistics import mean

import pytest
import torch
from conftest import make_answers, make_drafter, make_prompts, make_verifier
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from drafter.config import load
from drafter.data.rows import Row
from drafter.export.original import open_original
from drafter.machine.ranks import lightning_devices, own_device, ranks
from drafter.taps import LocalTaps
from drafter.training.batches.feed import Feed
from drafter.training.checkpoints import read_checkpoint
from drafter.training.fitting import fit
from drafter.training.module import MONITOR, DrafterModule, trained_weights

WORLD, WORKERS, PER_STEP = 2, 2, 2


def make_rows():
    """24 rows, each with a first token of its own."""
    pairs = list(zip(make_prompts(), make_answers("llama"), strict=True)) * 4
    return [Row.of([3 + number, *prompt], answer) for number, (prompt, answer) in enumerate(pairs)]


def trained(words, world, dies_at=None):
    """Fit a drafter; returns the first token of each row of each step, the objectives, and the weights."""
    seen, losses, step = [], [], DrafterModule.training_step

    def noting(self, batch, index):
        if self.global_step == dies_at:
            raise InterruptedError
        loss = step(self, batch, index)
        seen.append(batch.rows.ids[:, 0].tolist())
        losses.append(loss.item())
        return loss

    config = load(words[0], words[1:])
    verifier = make_verifier("llama")
    module = DrafterModule(config, make_drafter(verifier), verifier, [])
    batches = Feed(config, make_rows(), None, LocalTaps(verifier, module.drafter.tap_layers), world)
    with pytest.MonkeyPatch.context() as patch, suppress(InterruptedError):
        patch.setattr(DrafterModule, "training_step", noting)
        fit(module, batches, config.directory, config.training, MONITOR)
    return seen, losses, trained_weights(read_checkpoint(config.directory / "checkpoints/last.ckpt"))


def one_rank(rank, port, words, folder, dies_at):
    """What the launcher of several processes starts."""
    place = {"LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    torch.save(trained(words, WORLD, dies_at), folder / f"rank-{rank}.pt")
    os._exit(0)  # now and then a thread of gloo's, still there, would abort an ordinary exit


def on_two_ranks(words, folder, dies_at=None):
    """What `trained` returns of each."""
    assert started(one_rank, words, folder, dies_at) == [0, 0]
    return zip(*(torch.load(folder / f"rank-{rank}.pt") for rank in range(WORLD)), strict=True)


def started(work, words, folder, *more):
    """Exit codes of two processes that work together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, port, words, folder, *more)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def words_of(tiny_words, folder, *words):
    """Six steps of four packed rows, with answers of many lengths and a loss whose weight depends on the drafter."""
    settings = ["training.max_steps=6", "training.validate_every=100", "data.taps=online", "drafter.vocabulary=full"]
    return tiny_words(folder, *settings, "losses.first_error.weight=0.5", *words)


SHARED = [f"training.rows={PER_STEP}", "training.devices=2"]
ALONE = [f"training.rows={WORLD * PER_STEP}"]


@pytest.mark.parametrize("packing", ["false", "true"], ids=["padded", "packed"])
def test_two_ranks_of_two_workers_train_as_one_rank_does(tiny_words, tmp_path, packing):
    packed = [f"data.packing={packing}", "data.sequence_length=200"]
    make_answers("llama")
    alone = trained(words_of(tiny_words, tmp_path / "alone", *ALONE, *packed), 1)
    words = words_of(tiny_words, tmp_path / "ranks", *SHARED, f"training.workers={WORKERS}", *packed)
    seen, losses, weights = on_two_ranks(words, tmp_path)
    for step, (one, other) in enumerate(zip(*seen, strict=True)):
        assert sorted(one + other) == sorted(alone[0][step])
    rows = Counter(row for steps in seen for step in steps for row in step)
    assert set(rows.values()) == {1} or packing == "true"
    assert torch.tensor(losses).mean(0).tolist() == pytest.approx(alone[1], rel=1e-5)
    same_weights(weights[0], alone[2])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in alone[2])


def same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5)


FSDP = [*SHARED, "training.strategy=fsdp"]
FOLDERS = [*FSDP, "training.sharded_checkpoints=true"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(SHARED, ALONE, id="two ranks, then one", marks=pytest.mark.slow),
        pytest.param(FOLDERS, FOLDERS, id="weights and checkpoints shared out", marks=pytest.mark.slow),
        pytest.param(ALONE, FSDP, id="one rank, then two that share the weights out", marks=pytest.mark.slow),
        pytest.param(FSDP, SHARED, id="weights shared out, then not", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_however_many_ranks_there_are(tiny_words, tmp_path, before, after):
    """It is killed behind three steps; the next three end where six of one rank do."""

    def go(words, dies_at=None):
        words = words_of(tiny_words, tmp_path / "killed", *words, "training.average=0.9")
        if "training.devices=2" in words:
            _, losses, weights = on_two_ranks(words, tmp_path, dies_at)
            return torch.tensor(losses).mean(0).tolist(), weights[0]
        return trained(words, 1, dies_at)[1:]

    make_answers("llama")
    whole = trained(words_of(tiny_words, tmp_path / "alone", *ALONE, "training.average=0.9"), 1)
    first, _ = go(before, dies_at=3)
    last = tmp_path / "killed/tiny/checkpoints/last.ckpt"
    assert last.is_dir() == (before is FOLDERS)
    assert open_original(last).tensor("fc.weight").equal(trained_weights(read_checkpoint(last))["fc.weight"])
    rest, weights = go(after)
    assert "optimizer_states" not in read_checkpoint(last)  # it has ended
    assert first + rest == pytest.approx(whole[1], rel=1e-5)
    same_weights(weights, whole[2])


def one_node(rank, port, words, folder):
    """What torchrun starts on one of two machines."""
    place = {"RANK": rank, "GROUP_RANK": rank, "LOCAL_WORLD_SIZE": 1, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in place.items()})
    rank_zero_only.rank = rank
    one_rank(0, port, words, folder / str(rank), None)


@pytest.mark.slow
def test_two_nodes_train_as_one_rank_does(tiny_words, tmp_path):
    make_answers("llama")
    whole = trained(words_of(tiny_words, tmp_path / "alone", *ALONE), 1)
    words = words_of(tiny_words, tmp_path / "nodes", f"training.rows={PER_STEP}", "training.nodes=2")
    for rank in range(WORLD):
        (tmp_path / str(rank)).mkdir()
    assert started(one_node, words, tmp_path) == [0, 0]
    found = [torch.load(tmp_path / str(rank) / "rank-0.pt") for rank in range(WORLD)]
    assert [mean(pair) for pair in zip(found[0][1], found[1][1], strict=True)] == pytest.approx(whole[1], rel=1e-5)
    same_weights(found[0][2], whole[2])


def a_rank_that_waits(rank, port, words, folder):
    """Rank 1 is killed (-9) behind three steps; the other tells how it ended."""
    step = DrafterModule.training_step

    def dying(self, batch, index):
        if self.global_step == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    DrafterModule.training_step = dying
    try:
        one_rank(rank, port, words, folder, None)
    except ValueError as error:
        (folder / "said").write_text(str(error))
    os._exit(3)


def test_a_rank_that_dies_ends_the_others_in_a_line_and_nothing_is_lost(tiny_words, tmp_path):
    make_answers("llama")
    whole = trained(words_of(tiny_words, tmp_path / "alone", *ALONE), 1)
    words = words_of(tiny_words, tmp_path / "killed", *SHARED)
    assert started(a_rank_that_waits, words, tmp_path) == [3, -signal.SIGKILL]
    said = (tmp_path / "said").read_text()
    assert "imed out" not in said  # it heard of it: ranks give up waiting after half an hour
    assert re.fullmatch(r"training: rank 0 lost another one behind step 3 \(.+\); .* goes on from the last .*", said)
    _, losses, weights = trained(words_of(tiny_words, tmp_path / "killed", *ALONE), 1)
    assert losses == pytest.approx(whole[1][3:], rel=1e-5)
    same_weights(weights, whole[2])


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
    assert ranks(devices, device, nodes=3) == 3 * world
    assert own_device(devices, device) == own
    assert lightning_devices(devices, device) == told
