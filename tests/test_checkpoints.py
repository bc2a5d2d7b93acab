"""Checkpoints on the disk: as many as were asked for, whole or not there, whatever happens to a save."""

import errno
import logging
from itertools import count

import pytest
import torch
from kills import every_kill
from test_fitting import Line, Points, weights

from drafter.config import FittingConfig
from drafter.training import checkpoints
from drafter.training.checkpoints import WholeFiles, read_checkpoint, resumable
from drafter.training.fitting import fit


def test_as_many_are_kept_as_were_asked_for_and_the_newest_whole_one_is_gone_on_from(tmp_path, caplog):
    settings = FittingConfig(max_steps=60, log_every=1, keep=4)
    with pytest.raises(InterruptedError):
        fit(Line(dies_at=45), Points(), tmp_path, settings, "nearness")
    folder = tmp_path / "checkpoints"
    names = ["last.ckpt", "previous.ckpt", "previous-2.ckpt", "previous-3.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["best.ckpt", *names])
    steps = [read_checkpoint(folder / name)["global_step"] for name in names]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) >= 3
    for name in names[:2]:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    with caplog.at_level(logging.WARNING, "drafter"):
        found, state = resumable(folder)
    assert (found.name, state["global_step"]) == ("previous-2.ckpt", steps[2])
    assert caplog.text.count("is damaged") == 2
    resumed = Line()
    fit(resumed, Points(), tmp_path, settings, "nearness")
    assert resumed.seen[0] == steps[2]


def test_one_may_be_enough(tmp_path):
    fit(Line(), Points(), tmp_path, FittingConfig(max_steps=20, keep=1), "nearness")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


class Full:
    """A file on a disk that is full in the middle of it."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.file.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1500])
def test_a_full_disk_ends_in_a_line_and_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch, room):
    settings = FittingConfig(max_steps=60, log_every=1)
    whole = fit(Line(), Points(), tmp_path / "whole", settings, "nearness")
    save, saves = torch.save, count(1)

    def fails(state, file):
        return save(state, Full(file, room) if next(saves) >= 8 else file)

    monkeypatch.setattr(checkpoints.torch, "save", fails)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fit(Line(), Points(), tmp_path / "full", settings, "nearness")
    folder = tmp_path / "full/checkpoints"
    assert str(caught.value.filename).startswith(str(folder))
    assert not [path for path in folder.iterdir() if path.suffix != ".ckpt"]
    monkeypatch.undo()
    step = read_checkpoint(folder / "last.ckpt")["global_step"]
    resumed = Line()
    again = fit(resumed, Points(), tmp_path / "full", settings, "nearness")
    assert resumed.seen[0] == step > 0
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_the_old_one(tmp_path):
    place = tmp_path / "last.ckpt"

    def save(number):
        WholeFiles().save_checkpoint({"step": number, "weights": torch.full((50,), number)}, place)

    save(0)
    kills = 0
    for kills in every_kill(lambda _: save(1)):  # noqa: B007
        state = read_checkpoint(place)
        assert state["step"] in (0, 1)
        assert bool((state["weights"] == state["step"]).all())
        save(0)
    assert kills >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
