"""Where an export comes from: a drafter in memory, a training checkpoint, or a drafter in any layout."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drafter.export.record import checksum, read_record
from drafter.export.sharded import is_sharded, read_folder
from drafter.models import BlockDiffusionDrafter
from drafter.models.storage import Stored, facts_of, find


@dataclass
class Original:
    """A drafter to be written.

    Attributes:
        facts: see `drafter.layouts`.
        tensor: returns a tensor by our name.
        vocabulary: ids that it may propose, or None.
        head: the head's rows of those ids, where the source has them.
        training: what is known of the run.
    """

    facts: Mapping[str, Any]
    tensor: Callable[[str], Tensor]
    vocabulary: Tensor | None = None
    head: Tensor | None = None
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def verifier(self) -> str | None:
        """The verifier's name in the recipe, where there is one."""
        return ((self.training.get("recipe") or {}).get("verifier") or {}).get("source")


def of_drafter(drafter: BlockDiffusionDrafter, training: dict[str, Any]) -> Original:
    """A drafter in memory."""
    weights = drafter.state_dict()
    return Original(
        facts_of(drafter.config, drafter.dtype), weights.__getitem__, drafter.vocabulary, training=dict(training)
    )


def open_original(source: str | Path) -> Original:
    """What `source` names: a checkpoint (a file, or a folder of one file a rank), a directory, or a hub id.

    Raises:
        ValueError: it is none of them.
    """
    path = Path(source).expanduser()
    if path.is_file() or is_sharded(path):
        return of_checkpoint(path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"checkpoint={str(source)!r}: has no config.json; name a checkpoint file or a drafter")
    return of_directory(find(source))


def of_directory(directory: Path) -> Original:
    """A drafter in any layout; where its checksums were recorded, they must hold."""
    stored = Stored(directory)
    config = stored.build(BlockDiffusionDrafter)
    facts = facts_of(config, stored.dtype)
    record = read_record(directory)
    sums = record.get("sha256") or {}

    def tensor(name: str) -> Tensor:
        value = stored[name]
        if sums and sums.get(name) != checksum(value):
            raise ValueError(
                f"{directory}: {stored.layout.tensor(name)} is not what was exported (training.json has another "
                "checksum); export the checkpoint again, or delete training.json"
            )
        return value

    training = {key: value for key, value in record.items() if key not in ("sha256", "facts")}
    return Original(facts, tensor, stored.vocabulary(), stored.head(), training)


def of_checkpoint(path: Path) -> Original:
    """A checkpoint of training, plain or with averaged weights; optimiser states in it are never read.

    A file is opened anew for each tensor, so that its pages are given back: memory stays at one tensor.
    """
    state = read_state(path)
    about = state.get("drafter")
    if not isinstance(about, dict) or "facts" not in about:
        raise ValueError(
            f"checkpoint={str(path)!r}: does not say what drafter it holds; name a checkpoint that `train.py` wrote"
        )
    prefix = f"{about.get('weights', 'drafter')}."  # of what the recipe leaves: the weights, or their average
    names = {_ours(name, prefix): name for name in state["state_dict"] if name.startswith(prefix)}
    for name, shape in BlockDiffusionDrafter.shapes(about["facts"]).items():
        if name not in names or tuple(state["state_dict"][names[name]].shape) != shape:
            raise ValueError(f"checkpoint={str(path)!r}: {name} is missing or not {list(shape)}; train again")
    vocabulary = about["vocabulary"]
    training = {
        "recipe": state.get("hyper_parameters"),
        "step": state.get("global_step"),
        **{key: about[key] for key in ("verifier", "tokens_per_cycle") if about.get(key) is not None},
        **_of_run(path, state),
    }

    def tensor(name: str) -> Tensor:
        held = state if path.is_dir() else read_state(path)
        return held["state_dict"][names[name]].clone()

    return Original(about["facts"], tensor, None if vocabulary is None else vocabulary.clone(), training=training)


def _ours(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).replace("_orig_mod.", "")


def weights_of(checkpoint: dict[str, Any], child: str) -> dict[str, Tensor]:
    """The weights of a module's child in one of its checkpoints."""
    prefix = f"{child}."
    found = checkpoint["state_dict"].items()
    return {name.removeprefix(prefix): value for name, value in found if name.startswith(prefix)}


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint, mapped rather than read, and without running code from it."""
    try:
        if path.is_dir():
            return read_folder(path)
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive")
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint={str(path)!r}: can't be read as plain tensors ({reason})") from None
    if not isinstance(state, dict) or "state_dict" not in state:
        raise ValueError(f"checkpoint={str(path)!r}: holds no state_dict; name a checkpoint that `train.py` wrote")
    return state


def _of_run(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the run's own export recorded, if it was made from the same step."""
    record = read_record(path.parent.parent / "export") if path.parent.name == "checkpoints" else {}
    if record.get("step") != state.get("global_step"):
        return {}
    return {key: value for key, value in record.items() if key not in ("sha256", "facts")}
