"""Checkpoints: when they are made, how they are written, and the newest whole one."""

import logging
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from drafter.export.sharded import look_into, read_folder
from drafter.files import atomically, remove_folder

log = logging.getLogger(__name__)


def checkpoints(folder: Path, max_steps: int, monitor: str) -> list[Callback]:
    """Keep the best and the last checkpoint; the last one often, and after validations, so that it knows the best."""
    settings: dict[str, Any] = {"enable_version_counter": False}  # a resumed run overwrites
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode="max", save_weights_only=True, **settings)
    every = max(1, min(100, max_steps // 10))
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, save_on_train_epoch_end=True, **settings)
    validated = ModelCheckpoint(folder, "last", every_n_epochs=1, save_on_train_epoch_end=False, **settings)
    return [best, last, validated]


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: what a kill or a full disk leaves is the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomically(place) as scratch, scratch.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch closes its archive, which hides what the disk said
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None


class Previous(Callback):
    """Keeps the checkpoints before the last one, `previous.ckpt`, `previous-2.ckpt`, ...: a power cut may damage one.

    Args:
        keep: how many there are, the last one among them.
    """

    def __init__(self, last: Path, keep: int = 2):
        self.last, self.keep = last, keep

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not trainer.is_global_zero or not self.last.exists() or self.keep == 1:
            return
        names = [self.last, *(self.last.with_name(previous(number)) for number in range(1, self.keep))]
        _remove(names[-1])
        for number in range(self.keep - 1, 1, -1):  # the oldest make room first
            if names[number - 1].exists():
                names[number - 1].rename(names[number])
        if self.last.is_dir():
            self.last.rename(names[1])
        else:
            os.link(self.last, names[1])  # the new one is written beside it, then renamed over this name alone


def previous(number: int) -> str:
    """The name of a checkpoint, so many before the last."""
    return "previous.ckpt" if number == 1 else f"previous-{number}.ckpt"


def resumable(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest whole checkpoint of a folder that training can go on from, and what it holds; None: there is none.

    Raises:
        ValueError: there are only damaged ones.
    """
    before = sorted(folder.glob("previous*.ckpt"), key=lambda path: (len(path.name), path.name))
    found = [path for path in (folder / "last.ckpt", *before) if path.exists()]
    for path in found:
        try:
            return path, look_into(path) if path.is_dir() else read_checkpoint(path)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            log.warning("%s is damaged (%s)", path, str(error).splitlines()[0] if str(error) else "it ends too early")
    if found:
        raise ValueError(f"{folder}: its checkpoints are damaged; delete that folder to begin anew")
    return None, {}


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; of a file, what is not looked at is not read."""
    if checkpoint.is_dir():
        return read_folder(checkpoint)
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return state


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
