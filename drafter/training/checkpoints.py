"""Checkpoints: when they are made, how they are written, the newest whole one, and what is left of them at the end."""

import logging
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from drafter.export.original import weights_of
from drafter.export.sharded import INDEX, look_into, read_folder, write_folder
from drafter.files import atomically, remove_folder, sweep

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


class Recount(Callback):
    """Counts what was trained in the micro-batches of this start: the trainer knows a step's end by their number."""

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        more = checkpoint["global_step"] * trainer.accumulate_grad_batches - progress["current"]["processed"]
        for counts in (progress["total"], progress["current"]):
            for name in counts:
                counts[name] += more


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


def leave(folder: Path, steps: int, child: str, whole: bool) -> None:
    """Drop what nothing reads of a fit that has ended; until its last checkpoint stands at `steps`, nothing.

    `last.ckpt` and `best.ckpt` stay, without the optimiser's states; where both are of one step, as two names of one
    file. Each is replaced in one step, and what was not dropped before a kill is dropped by the next call.

    Args:
        child: whose weights they keep; '' for all.
        whole: leave both as they are, for more steps to follow.
    Raises:
        ValueError: all checkpoints are damaged.
    """
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    found, state = resumable(folder)
    if found != last or state["global_step"] < steps:
        return
    sweep(folder)
    for path in folder.glob("previous*.ckpt"):  # first: they make room for what is written below
        _remove(path)
    if whole:
        return
    _lighten(last, child)
    folders = last.is_dir()
    if not best.exists() or (best / INDEX if folders else best).samefile(last / INDEX if folders else last):
        return
    if read_checkpoint(best)["global_step"] < state["global_step"]:
        _lighten(best, child)
    elif folders:
        with atomically(best, folder=True, over=True) as scratch:
            for path in last.iterdir():
                os.link(path, scratch / path.name)
    else:
        with atomically(best) as scratch:
            scratch.unlink()
            os.link(last, scratch)


def forget(folder: Path) -> None:
    """Remove the checkpoints of a fit whose result stands elsewhere; by the empty folder a run is known as begun."""
    for path in folder.glob("*.ckpt"):
        _remove(path)


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; of a file, what is not looked at is not read."""
    if checkpoint.is_dir():
        return read_folder(checkpoint)
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return state


def seconds_of(folder: Path) -> dict[str, float]:
    """How long a fit took, over all the processes that it took, by stage: `prepare`, `train`."""
    found: dict[str, float] = read_checkpoint(folder / "last.ckpt")["seconds"]
    return found


def _lighten(path: Path, child: str) -> None:
    """Write a checkpoint again without what no finished run is asked for, unless it was."""
    state = read_checkpoint(path)
    weights = weights_of(state, child) if child else state["state_dict"]
    if "optimizer_states" in state or len(weights) < len(state["state_dict"]):
        kept = {f"{child}.{name}" if child else name: weight for name, weight in weights.items()}
        light = {**{name: value for name, value in state.items() if name != "optimizer_states"}, "state_dict": kept}
        if path.is_dir():
            with atomically(path, folder=True, over=True) as scratch:
                write_folder(scratch, light)
        else:
            WholeFiles().save_checkpoint(light, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
