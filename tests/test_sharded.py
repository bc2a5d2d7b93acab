"""Checkpoints of one file a rank: put together as one file would hold them; damaged or foreign ones are refused."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from drafter.export.sharded import is_sharded, look_into, read_folder
from drafter.training.checkpoints import resumable

TRAP = "/tmp/block-drafter-trap"
WEIGHTS = {"drafter.fc.weight": torch.arange(12.0).view(3, 4), "drafter.norm.weight": torch.ones(3)}


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path(TRAP),))


def write(folder, **others):
    parts = {"state_dict": WEIGHTS, "optimizer_0": {"state": {}, "param_groups": others}}
    dcp.save(parts, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 7}, folder / "meta.pt")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_put_together(tmp_path):
    folder = write(tmp_path / "last.ckpt", lr=0.5)
    found = read_folder(folder)
    assert is_sharded(folder)
    assert found["global_step"] == 7
    assert found["state_dict"].keys() == WEIGHTS.keys()
    assert all(torch.equal(found["state_dict"][name], weight) for name, weight in WEIGHTS.items())


def cut(folder):
    file = next(folder.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-100])


def spoil_the_index(folder):
    (folder / ".metadata").write_bytes(pickle.dumps(Trap()))


DAMAGES = {
    "cut": (cut, "is missing, or ends too early"),
    "missing": (lambda folder: next(folder.glob("*.distcp")).unlink(), "is missing, or ends too early"),
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
