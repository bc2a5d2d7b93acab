"""Tensors on disk as safetensors, one in memory at a time: read from one file or many, written in shards."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Dtypes of weights; others are codes, of a quantised drafter."""
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Weights(Mapping[str, Tensor]):
    """The tensors of a directory, by name; each is read when it is asked for, and never through pickle.

    Raises:
        ValueError: no weights are there, or the files and their index disagree.
    """

    def __init__(self, directory: Path):
        self._files: dict[str, Path] = {}
        self._facts: dict[str, tuple[tuple[int, ...], str]] = {}
        placed = _placed(directory)
        for file in sorted(set(placed.values())) if placed else [directory / SINGLE]:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                        if name in self._files:
                            raise ValueError(f"{file}: {name} is in another shard too; export again")
                        part = opened.get_slice(name)
                        self._files[name] = file
                        self._facts[name] = tuple(part.get_shape()), part.get_dtype()
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file}: no readable safetensors ({error}); export or download it again") from None
        for name in placed.keys() | self._files.keys() if placed else ():
            if placed.get(name) != self._files.get(name):
                file = placed.get(name) or self._files[name]
                raise ValueError(f"{directory / INDEX}: does not agree with {file.name} on {name}; export again")

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as opened:  # opened anew, so that its pages are given back
            return opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._facts[name][0]

    def code(self, name: str) -> str:
        """The dtype, as safetensors writes it: `BF16`, `F32`, ..."""
        return self._facts[name][1]


def _placed(directory: Path) -> dict[str, Path]:
    """Which file the index names for each tensor; empty without an index."""
    index, single = directory / INDEX, directory / SINGLE
    if not index.is_file():
        if not single.is_file():
            raise ValueError(f"{directory}: has no {SINGLE}; name a directory that `drafter export` wrote")
        return {}
    if single.is_file():
        raise ValueError(f"{directory}: has both {SINGLE} and {INDEX}; engines may read either: export again")
    try:
        placed = {str(name): directory / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{index}: no weight_map of names to files; export again") from None
    for file in placed.values():
        if file.parent != directory or not file.is_file():
            raise ValueError(f"{directory}: shard {file.name} is missing; copy it, or export again")
    return placed


def write_weights(
    directory: Path, entries: Sequence[Entry], get: Callable[[str], Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors, in one file or, past `shard_bytes`, in several with an index.

    Args:
        get: returns a tensor by its name, in the entry's shape and dtype; called once for each, in order.
    """
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if shards[-1] and filled + entry.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.size
    if len(shards) == 1:
        _write_file(directory / SINGLE, shards[0], get)
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(directory / name, shard, get)
        placed |= {entry.name: name for entry in shard}
    total = {"total_size": sum(entry.size for entry in entries)}
    (directory / INDEX).write_text(json.dumps({"metadata": total, "weight_map": placed}, indent=2) + "\n")


def _write_file(path: Path, entries: Sequence[Entry], get: Callable[[str], Tensor]) -> None:
    """One safetensors file: the header's length in 8 bytes, the header as JSON padded to 8 bytes, then the tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.size],
        }
        at += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            tensor = get(entry.name)
            if tensor.shape != entry.shape or tensor.dtype != entry.dtype:
                raise ValueError(
                    f"{entry.name}: is {list(tensor.shape)} in {tensor.dtype}, not {list(entry.shape)} in "
                    f"{entry.dtype}; check the checkpoint"
                )
            file.write(tensor_bytes(tensor))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, as they stand in a file."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
