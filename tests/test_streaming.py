"""Answers read as training goes on: each once an epoch by one reader, from where it stood, in little memory."""

from collections import Counter
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import make_drafter, make_verifier

from drafter import answers
from drafter.config import load
from drafter.data.on_disk import open_rows
from drafter.data.rows import Cuts, Row, rows_and_cuts, split, validation_and_test
from drafter.data.stream import Place, Stream, buffers
from drafter.taps import LocalTaps
from drafter.training.batches import StreamSteps, loader
from drafter.training.batches.feed import Feed
from drafter.training.fitting import fit
from drafter.training.module import MONITOR, DrafterModule

FILES = (23, 9, 40)


def answer_of(number):
    ids = [3 + number % 250, 3 + number // 250, *range(5, 9 + number % 11)]
    return {"source": f"{number}.py", "kind": "write", "prompt": "x" * (number % 7), "answer_ids": ids, "stop": "stop"}


def number_of(row):
    return row.answer[0] - 3 + 250 * (row.answer[1] - 3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """72 answers in three files of row groups of 7."""
    folder, first, paths = tmp_path_factory.mktemp("stream"), 0, []
    for count in FILES:
        table = pyarrow.Table.from_pylist([answer_of(first + i) for i in range(count)], schema=answers.SCHEMA)
        paths.append(folder / f"{first}.parquet")
        pyarrow.parquet.write_table(table, paths[-1], row_group_size=7)
        first += count
    return paths


@pytest.fixture
def stream(files):
    return Stream(files, [None] * len(files), seed=0)


def make_row(where, answer):
    return Row.of([1, 2], answer["answer_ids"], answer["source"])


@pytest.mark.parametrize("readers", [1, 4, 5, 60])
def test_parts_of_an_epoch_are_all_answers_once(stream, readers):
    orders = []
    for epoch in range(2):
        parts = [[found[2]["source"] for found in stream.part(epoch, reader, readers)] for reader in range(readers)]
        orders.append([source for part in parts for source in part])
        assert sorted(orders[-1]) == sorted(answer_of(number)["source"] for number in range(72))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert orders[0] != orders[1]


def test_a_part_goes_on_from_any_of_its_rows(stream):
    whole = list(stream.part(1, 1, 3))
    assert [row for row, _, _ in whole] == list(range(24))
    for first in (0, 1, 6, 7, 13, 23, 24):
        assert list(stream.part(1, 1, 3, first)) == whole[first:]


def test_an_answer_is_named_by_file_and_row(stream, files):
    for _, where, answer in stream.part(0, 0, 1):
        name, row = where.split(", row ")
        table = pyarrow.parquet.read_table(name)
        assert table["source"][int(row)].as_py() == answer["source"]


def test_a_buffer_is_the_next_rows_and_knows_the_last_of_an_epoch(stream):
    def odd(where, answer):
        return make_row(where, answer) if int(answer["source"][:-3]) % 2 else None

    filled = buffers(stream, odd, 0, 2, size=8, start=Place())
    seen, lasts = Counter(), []
    for place, rows, last in filled:
        if place.epoch == 2:
            break
        assert len(rows) == 8 or last
        lasts.append(last)
        seen.update((place.epoch, number_of(row)) for row in rows)
    assert set(seen.values()) == {1}
    assert sum(lasts) == 2
    with pytest.raises(ValueError, match="reader 1 of 2 finds no row to train on"):
        next(buffers(stream, lambda where, answer: None, 1, 2, 8, Place()))


@pytest.fixture
def config(tiny_words, tmp_path):
    words = tiny_words(
        tmp_path,
        "data.streaming=true",
        "data.taps=online",
        "data.shuffle_buffer=10",
        "training.rows=3",
        "training.validate_every=100",
    )

    def read(*overrides):
        return load(words[0], [*words[1:], *overrides])

    return read


@pytest.mark.parametrize("packing", ["false", "true"])
def test_two_ranks_of_two_workers_see_every_row_once(stream, config, packing):
    settings = config("training.workers=2", f"data.packing={packing}", "data.sequence_length=40")
    seen, numbers = Counter(), []
    for rank in range(2):
        for batch in loader(StreamSteps(stream, make_row, settings, rank, world=2), 0, 0, workers=2):
            numbers.append((rank, batch.number))
            assert len(batch.rows.ids) <= 3
            if batch.place[1] == 0:
                heads = (batch.rows.supervised & ~torch.roll(batch.rows.supervised, 1, 1)).nonzero()
                seen.update(tuple(batch.rows.ids[row, at : at + 2].tolist()) for row, at in heads.tolist())
            if batch.number == 39:
                break
    assert seen == {(3 + number % 250, 3 + number // 250): 1 for number in range(72)}
    assert numbers == [(rank, number) for rank in range(2) for number in range(40)]


def same(one, other):
    tensors = [
        (one.rows.ids, other.rows.ids),
        (one.anchors, other.anchors),
        (one.rows.supervised, other.rows.supervised),
    ]
    return one.number == other.number and one.place == other.place and all(a.equal(b) for a, b in tensors)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_goes_on_behind_any_batch(stream, config, workers):
    settings = config(f"training.workers={workers}", "data.packing=true", "data.sequence_length=40")

    def batches(first, places, count):
        made = loader(
            StreamSteps(stream, make_row, settings, first=first, places=places), 0, 0, workers - 1 and workers
        )
        return [batch for batch, _ in zip(made, range(count), strict=False)]

    whole = batches(0, {}, 40)
    assert len({batch.place[1] for batch in whole}) > 2  # epochs
    for first in (1, 7, 12, 20) if workers == 1 else (9,):
        places = {batch.place[0]: batch.place[1:] for batch in whole[:first]}
        again = batches(first, places, 40 - first)
        assert all(same(one, other) for one, other in zip(again, whole[first:], strict=True))


def test_streamed_rows_are_those_in_memory(tiny_answers, config):
    settings, verifier = config(), make_verifier("llama")
    rows, cuts = rows_and_cuts(answers.read(tiny_answers)[0], verifier, 512)
    training, held_out = split(rows, settings.data.validation_share)
    stream = Stream([tiny_answers], [None], 0)
    on_disk, found = open_rows(stream, verifier, settings.data)
    counts = (settings.data.validation_rows, settings.data.test_rows)
    assert found == validation_and_test(held_out, settings.data.validation_share, *counts)
    streamed = [row for *_, answer in stream.part(0, 0, 1) if (row := on_disk.make("", answer))]
    assert sorted(row.ids for row in streamed) == sorted(row.ids for row in training)
    assert on_disk.survey.rows == len(training)
    assert on_disk.cuts == cuts == Cuts(looked_at=48, left_out=0, cut=0, limit=512, loops=1)
    assert on_disk.survey.tokens == sum(len(row.answer) for row in training)
    counts = Counter(token for row in training for token in row.answer)
    assert {token: int(n) for token, n in enumerate(on_disk.survey.counts) if n} == counts


def test_a_killed_run_goes_on_with_the_batch_that_would_have_been_next(stream, config, monkeypatch):
    """Killed behind a checkpoint that is not the newest batch; the weights end the same, bit for bit."""
    verifier, step = make_verifier("llama"), DrafterModule.training_step

    def run(name, dies_at):
        settings, seen = config(f"name={name}", "training.max_steps=30", "training.accumulate=2"), []

        def training_step(self, batch, index):
            if batch.number == dies_at:
                raise KeyboardInterrupt
            loss = step(self, batch, index)
            seen.append((batch.number, batch.place, loss.item()))
            return loss

        monkeypatch.setattr(DrafterModule, "training_step", training_step)
        torch.manual_seed(0)
        module = DrafterModule(settings, make_drafter(verifier), verifier, [])
        on_disk = SimpleNamespace(stream=stream, make=make_row)
        batches = Feed(settings, [], on_disk, LocalTaps(verifier, module.drafter.tap_layers))
        try:
            fit(module, batches, settings.directory, settings.training, MONITOR)
        except SystemExit:
            assert dies_at is not None
        return seen

    whole = run("whole", None)
    assert len(whole) == 60
    run("killed", 28)
    resumed = run("killed", None)
    assert 0 < len(resumed) < 50
    assert resumed == whole[-len(resumed) :]


def test_a_changed_number_of_readers_is_refused(stream, config):
    on_disk, taps = SimpleNamespace(stream=stream, make=make_row), LocalTaps(make_verifier("llama"), [1, 3])
    three, two = (Feed(config(f"training.workers={count}"), [], on_disk, taps) for count in (3, 2))
    two.load_state_dict(Feed(config("training.workers=2"), [], on_disk, taps).state_dict())
    with pytest.raises(ValueError, match="the checkpoint is of a stream's 3 readers; train with as many"):
        two.load_state_dict(three.state_dict())
