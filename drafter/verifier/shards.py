"""Some tensors of a checkpoint in safetensors, one at a time; of a sharded one, only the shards that hold them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import cached_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = ("_scale_inv", "_scale")  # what stands behind the name of a weight in eight bits; both multiply
BLOCK = (128, 128)


class Checkpoint:
    """The tensors of a directory or hub id, by name; a file is fetched when a tensor of it is asked for.

    Args:
        where: directory or hub id.
        block: weights [out, in] that share a scale, where they are in eight bits with scales of blocks.
    Raises:
        ValueError: it has no safetensors, or an index that is none.
    """

    def __init__(self, where: str, block: tuple[int, int] = BLOCK):
        self.where, self.block = where, block
        index = self._file(INDEX)
        if index is None:
            single = self._file(SINGLE)
            if single is None:
                raise ValueError(f"has neither {SINGLE} nor {INDEX}; save it as safetensors")
            with self._open(single) as file:
                self._files = dict.fromkeys(file.keys(), SINGLE)
            return
        try:
            self._files = {str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{index.name}: no weight_map of names to files; copy it again") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor in `dtype`, or as it is stored; eight bits with their scales become bfloat16.

        Raises:
            ValueError: its file is missing or cut off, or it is stored in a way that is not known here.
        """
        stored = self._stored(name)
        if stored.dtype in EIGHT_BITS:
            scale = next((self._stored(name + end) for end in SCALES if name + end in self._files), None)
            if scale is None:
                raise ValueError(f"{name} is {stored.dtype} without {name}{SCALES[0]} or {SCALES[1]}")
            return unscaled(stored, scale, self.block).to(dtype or torch.bfloat16)
        if not stored.is_floating_point():
            raise ValueError(f"{name} is stored as {stored.dtype}, packed in a way that is not read here")
        return stored if dtype is None else stored.to(dtype)

    def _stored(self, name: str) -> Tensor:
        path = self._file(self._files[name])
        if path is None:
            raise ValueError(f"{self._files[name]}, which holds {name}, is not there; copy it")
        with self._open(path) as file:
            return file.get_tensor(name)

    def _file(self, name: str) -> Path | None:
        found = cached_file(self.where, name, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    def _open(self, path: Path) -> safe_open:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path.name}: no readable safetensors ({error}); copy it again") from None


def absent_files(where: str) -> list[str]:
    """Names of the files that the index of a directory names and that are not there; of a hub id, none."""
    index = Path(where) / INDEX
    if not index.is_file():
        return []
    with suppress(ValueError, AttributeError, TypeError):  # what is wrong with an index is said elsewhere
        named = json.loads(index.read_text()).get("weight_map", {}).values()
        return sorted(name for name in set(named) if not (index.parent / name).is_file())
    return []


def unscaled(stored: Tensor, scale: Tensor, block: tuple[int, int] = BLOCK) -> Tensor:
    """A weight [out, in] of eight bits times its scale, float32.

    Args:
        scale: one number, one for each row ([out] or [out, 1]), or one for each block of `block` weights.
    Raises:
        ValueError: the scale is of no such shape.
    """
    scale = scale.float()
    if scale.numel() == 1:
        return stored.float() * scale.reshape(())
    scale = scale[:, None] if scale.ndim == 1 else scale
    if scale.shape != (len(stored), 1):
        blocks = tuple(-(-whole // size) for whole, size in zip(stored.shape, block, strict=True))
        if scale.shape != blocks:
            raise ValueError(f"scales of shape {list(scale.shape)} fit no weight of shape {list(stored.shape)}")
        scale = scale.repeat_interleave(block[0], 0)[: len(stored)].repeat_interleave(block[1], 1)[:, : stored.shape[1]]
    return stored.float() * scale
