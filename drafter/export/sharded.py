"""Checkpoints of one file a rank, as torch and Lightning write them: folders, put together on one CPU.

What lies in one is read as plain tensors and plain facts: nothing in it can run.
"""

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, save
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

INDEX, FACTS = ".metadata", "meta.pt"  # names of torch's and of Lightning's
OPTIMISER = "optimizer_"  # begins the names of its states there
HARMLESS = {  # all that an index of tensors is made of
    "torch": {"Size", "float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "ChunkStorageMetadata", "BytesStorageMetadata"),
        *("TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
}


def is_sharded(path: Path) -> bool:
    """Whether a path is such a folder, whole or not."""
    return path.is_dir() and ((path / INDEX).is_file() or (path / FACTS).is_file())


def look_into(folder: Path) -> dict[str, Any]:
    """What a checkpoint of one file a rank says beside its weights; of an optimiser's states, that there are some.

    Raises:
        RuntimeError, EOFError, UnpicklingError: it is damaged.
    """
    index = _read_index(folder)
    for part, place in index.storage_data.items():
        file = folder / place.relative_path
        if file.parent != folder:
            raise EOFError(f"its index names a part elsewhere, {place.relative_path}")
        if not file.is_file() or file.stat().st_size < place.offset + place.length:
            raise EOFError(f"{file.name} is missing, or ends too early")
        if isinstance(index.state_dict_metadata[part.fqn], BytesStorageMetadata):  # who resumes loads it without a look
            with file.open("rb") as stream:
                stream.seek(place.offset)
                torch.load(io.BytesIO(stream.read(place.length)), weights_only=True)
    facts: dict[str, Any] = torch.load(folder / FACTS, map_location="cpu", weights_only=True)
    states = [name for name in index.state_dict_metadata if name.startswith(OPTIMISER)]
    return {**facts, "optimizer_states": states} if states else facts


def read_folder(folder: Path) -> dict[str, Any]:
    """A checkpoint of one file a rank, put together on the CPU, as one file would hold it."""
    facts = look_into(folder)  # first: it looks at what the index names
    found: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner(keys={"state_dict"})
    _load_state_dict(found, storage_reader=FileSystemReader(folder), planner=planner, no_dist=True)
    return {**facts, "state_dict": found["state_dict"]}


def write_folder(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint without an optimiser's states, as `read_folder` gives it, into a folder: one file in it."""
    facts = {name: value for name, value in checkpoint.items() if name != "state_dict"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*assuming the intent is to save in a single process.*")
        save({"state_dict": checkpoint["state_dict"]}, checkpoint_id=folder, no_dist=True)
    torch.save(facts, folder / FACTS)


class _Plain(pickle.Unpickler):
    """Refuses whatever an index of tensors is not made of."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in HARMLESS.get(module, ()):
            raise pickle.UnpicklingError(f"its index names {module}.{name}, which is no part of one")
        return super().find_class(module, name)


def _read_index(folder: Path) -> Any:
    path = folder / INDEX
    if not path.is_file() or not (folder / FACTS).is_file():
        raise EOFError(f"{INDEX} or {FACTS} is missing")
    return _Plain(io.BytesIO(path.read_bytes())).load()
