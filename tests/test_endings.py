"""What lies on the disk behind a fit that has ended: what somebody reads, whatever was killed when, and no more."""

import io
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from kills import every_kill
from test_fitting import Line, Points, weights
from test_optimisation import Deep

from drafter.config import FittingConfig
from drafter.training import checkpoints, fitting
from drafter.training.checkpoints import forget, leave, read_checkpoint, resumable
from drafter.training.fitting import fit
from drafter.training.optimisation import never_fell

STEPS = FittingConfig(max_steps=20, validate_every=5, log_every=1, keep=3)


class Worse(Line):
    """Best at its first validation."""

    def validation_step(self, batch, index):
        self.log("nearness", -float(self.global_step))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A function: a module, and its folder of checkpoints as it is behind the last step."""

    def run(module):
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "leave", lambda *_: None)
            fit(module, Points(), tmp_path / "run", STEPS, "nearness")
        assert names(tmp_path / "run/checkpoints") == sorted(
            ["best.ckpt", "last.ckpt", "previous.ckpt", "previous-2.ckpt"]
        )
        return tmp_path / "run/checkpoints"

    return run


@pytest.mark.parametrize("child", ["", "average.model"])
@pytest.mark.parametrize("kind", [Line, Worse], ids=["the last is the best", "another one is"])
def test_best_and_last_stay_with_the_weights_that_are_asked_for(ended, kind, child):
    module = Deep(STEPS) if child else kind()
    if child and kind is Worse:
        module.validation_step = lambda *_: module.log("nearness", -float(module.global_step))
    folder = ended(module)
    before = {path.name: read_checkpoint(path) for path in folder.iterdir()}
    (folder / ".best.ckpt.dead.unfinished").touch()  # of a kill long ago
    leave(folder, 20, child, False)
    assert names(folder) == ["best.ckpt", "last.ckpt"]
    for name in names(folder):
        state, whole = read_checkpoint(folder / name), before[name]
        assert "optimizer_states" not in state
        assert state["global_step"] == whole["global_step"]
        kept = {key: value for key, value in whole["state_dict"].items() if key.startswith(child)}
        assert state["state_dict"].keys() == kept.keys()
        assert len(kept) < len(whole["state_dict"]) or not child
        assert all(torch.equal(state["state_dict"][key], value) for key, value in kept.items())
    assert read_checkpoint(folder / "last.ckpt").keys() == before["last.ckpt"].keys() - {"optimizer_states"}
    steps = {before[name]["global_step"] for name in ("best.ckpt", "last.ckpt")}
    assert (folder / "best.ckpt").samefile(folder / "last.ckpt") == (len(steps) == 1) == (kind is Line)
    size = sum(path.stat().st_size for path in folder.iterdir())
    leave(folder, 20, child, False)
    assert sum(path.stat().st_size for path in folder.iterdir()) == size


def save_at_once(state, file, save=torch.save):
    """One write: those within a checkpoint are killed in `test_checkpoints.py`."""
    whole = io.BytesIO()
    save(state, whole)
    file.write(whole.getvalue())


@pytest.mark.parametrize("kind", [Line, pytest.param(Worse, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_leaves_a_run_that_has_ended_and_the_next_start_drops_the_rest(
    ended, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(checkpoints.torch, "save", save_at_once)
    folder, place = ended(kind()), tmp_path / "place"
    best = weights(folder / "best.ckpt")
    shutil.copytree(folder, place / "checkpoints")
    kills = 0
    for kills in every_kill(lambda _: leave(place / "checkpoints", 20, "", False)):  # noqa: B007
        found, state = resumable(place / "checkpoints")
        assert (found.name, state["global_step"]) == ("last.ckpt", 20)
        idle = kind(dies_at=0)
        kept = weights(fit(idle, Points(), place, STEPS, "nearness"))
        assert all(torch.equal(kept[name], value) for name, value in best.items())
        assert (names(place / "checkpoints"), idle.seen) == (["best.ckpt", "last.ckpt"], [])
        shutil.rmtree(place)
        shutil.copytree(folder, place / "checkpoints")
    assert kills > 6


def test_nothing_is_dropped_before_the_last_step_stands(ended):
    folder = ended(Line())
    before = names(folder)
    leave(folder, 21, "", False)
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:100])
    leave(folder, 20, "", False)
    assert names(folder) == before


def test_what_more_steps_need_stays_where_they_may_follow(ended, tmp_path):
    assert never_fell(FittingConfig(schedule="constant"))
    assert not any(never_fell(FittingConfig(schedule=one)) for one in ("cosine", "stable"))
    folder = ended(Line())
    leave(folder, 20, "", True)
    assert names(folder) == ["best.ckpt", "last.ckpt"]
    assert "optimizer_states" in read_checkpoint(folder / "last.ckpt")
    fit(Line(), Points(), tmp_path / "run", STEPS, "nearness")
    with pytest.raises(
        ValueError, match=r"training\.max_steps=30: .*run ended at step 20 and keeps its weights alone; "
    ):
        fit(Line(), Points(), tmp_path / "run", FittingConfig(max_steps=30), "nearness")


def test_what_stands_elsewhere_is_forgotten(ended):
    folder = ended(Line())
    forget(folder)
    assert names(folder) == []


@pytest.mark.parametrize(("keep", "remedy"), [(3, "lower it, or set output"), (1, "set output")])
def test_a_disk_without_room_is_named_before_the_first_step(tmp_path, monkeypatch, keep, remedy):
    """Three weights of four bytes, two moments each: what is there already counts as room."""
    usage, line = namedtuple("usage", ["total", "used", "free"]), Line()
    bytes_ = 12 + 36 * keep + (12 if keep > 1 else 36)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, bytes_ - 1))
    settings = FittingConfig(max_steps=1, keep=keep)
    message = rf"training\.keep={keep}: checkpoints take up to .* GB in .*, .* GB are free; {remedy} to another disk"
    with pytest.raises(ValueError, match=message):
        fit(line, Points(), tmp_path, settings, "nearness")
    assert line.seen == []
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/something").write_bytes(b"x")
    fit(line, Points(), tmp_path, settings, "nearness")
    assert line.seen == [0]
