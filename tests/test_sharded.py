"""Checkpoints of one file a rank: put together as one file would hold them; damaged or foreign ones are refused."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from drafter.export.sharded import is_sharded, look_into, read_folder
from drafter.training.checkpoints import leave, resumable

TRAP = "/tmp/block-drafter-trap"
WEIGHTS = {"drafter.fc.weight": torch.arange(12.0).view(3, 4), "drafter.norm.weight": torch.ones(3)}


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path(TRAP),))


def write(folder, step=7, weights=WEIGHTS, **others):
    parts = {"state_dict": weights, "optimizer_0": {"state": {"moment": torch.ones(99)}, "param_groups": others}}
    dcp.save(parts, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": step}, folder / "meta.pt")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_put_together(tmp_path):
    folder = write(tmp_path / "last.ckpt", lr=0.5)
    found = read_folder(folder)
    assert is_sharded(folder)
    assert found["global_step"] == 7
    assert found["state_dict"].keys() == WEIGHTS.keys()
    assert all(torch.equal(found["state_dict"][name], weight) for name, weight in WEIGHTS.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("best", [6, 7])
def test_what_has_ended_keeps_its_weights_alone(tmp_path, best):
    """The best and the last: of one step, one file under two names. What was dropped is not dropped again."""
    other = {"average.model.fc.weight": torch.zeros(3, 4)}
    folders = [
        write(tmp_path / f"{name}.ckpt", step, WEIGHTS | other, lr=0.5)
        for name, step in (("best", best), ("last", 7), ("previous", 5))
    ]
    assert "optimizer_states" in resumable(tmp_path)[1]
    leave(tmp_path, 7, "drafter", whole=True)
    assert "optimizer_states" in resumable(tmp_path)[1]
    before = None
    for again in (False, True):
        leave(tmp_path, 7, "drafter", whole=False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
        for folder, step in zip(folders, (best, 7), strict=False):
            found = read_folder(folder)
            assert (found["global_step"], "optimizer_states" in found) == (step, False)
            assert found["state_dict"].keys() == WEIGHTS.keys()
            assert all(torch.equal(found["state_dict"][name], weight) for name, weight in WEIGHTS.items())
        files = [{path.name: path.stat().st_ino for path in folder.iterdir()} for folder in folders[:2]]
        assert (files[0] == files[1]) == (best == 7)
        assert not again or files == before
        before = files


def cut(folder):
    file = next(folder.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-100])


def spoil_the_index(folder):
    (folder / ".metadata").write_bytes(pickle.dumps(Trap()))


def point_elsewhere(folder):
    index = pickle.loads((folder / ".metadata").read_bytes())
    for part, place in index.storage_data.items():
        index.storage_data[part] = replace(place, relative_path=f"../previous.ckpt/{place.relative_path}")
    (folder / ".metadata").write_bytes(pickle.dumps(index))


DAMAGES = {
    "cut": (cut, "is missing, or ends too early"),
    "missing": (lambda folder: next(folder.glob("*.distcp")).unlink(), "is missing, or ends too early"),
    "a part elsewhere": (point_elsewhere, "its index names a part elsewhere"),
    "without facts": (lambda folder: (folder / "meta.pt").unlink(), "meta.pt is missing"),
    "an index that runs": (spoil_the_index, "its index names pathlib.Path.touch|its index names"),
    "a part that runs": (lambda folder: write(folder, lr=Trap()), "Weights only load failed"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before_it(tmp_path, caplog, kind):
    spoil, words = DAMAGES[kind]
    write(tmp_path / "previous.ckpt", lr=0.5)
    last = write(tmp_path / "last.ckpt", lr=0.5)
    assert resumable(tmp_path)[0] == last
    spoil(last)
    with pytest.raises((EOFError, pickle.UnpicklingError), match=words):
        look_into(last)
    assert resumable(tmp_path)[0] == tmp_path / "previous.ckpt"
    assert f"{last} is damaged" in caplog.text
    assert not Path(TRAP).exists()
