"""What the trainer writes while a run trains: metrics, checkpoints, one line of progress."""

import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tqdm import tqdm

from drafter.files import remove_folder, write_csv


def checkpoints(folder: Path, max_steps: int, monitor: str) -> list[Callback]:
    """Keep the best and the last checkpoint; the last one often, and after validations, so that it knows the best."""
    settings: dict[str, Any] = {"enable_version_counter": False}  # a resumed run overwrites
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode="max", save_weights_only=True, **settings)
    every = max(1, min(100, max_steps // 10))
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, save_on_train_epoch_end=True, **settings)
    validated = ModelCheckpoint(folder, "last", every_n_epochs=1, save_on_train_epoch_end=False, **settings)
    return [best, last, validated]


class Previous(Callback):
    """Keeps the last checkpoint but one, `previous.ckpt`: of two, a full disk or a power cut damages one."""

    def __init__(self, last: Path):
        self.last = last

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not trainer.is_global_zero or not self.last.exists():
            return
        previous = self.last.with_name("previous.ckpt")
        remove_folder(previous) if previous.is_dir() else previous.unlink(missing_ok=True)
        if self.last.is_dir():
            self.last.rename(previous)
        else:
            os.link(self.last, previous)  # the new one is written beside it, then renamed over this name alone


def loggers(names: Sequence[str], part: Path, directory: Path) -> list[Logger]:
    """CSV into `part`, which the run's own figures come from; the others beside the run, or where they are told to.

    Args:
        names: `tensorboard`, `wandb`, `mlflow`; the last two read their own environment variables.
    Raises:
        ValueError: a logger's package is not installed.
    """
    run = f"{directory.parent.name}/{directory.name}"
    made: list[Logger] = [CSVLogger(part.parent, name="", version=part.name)]
    for name in names:
        try:
            if name == "tensorboard":
                made.append(TensorBoardLogger(directory, name="", version="tensorboard"))
            elif name == "wandb":
                made.append(WandbLogger(name=run, save_dir=directory, project="block-drafter"))
            else:
                made.append(MLFlowLogger(experiment_name="block-drafter", run_name=run, save_dir=str(directory / name)))
        except ModuleNotFoundError as error:
            reason = f"{error.name or name} is not installed; pip install {name}, or leave it out"
            raise ValueError(f"training.loggers={name!r}: {reason}") from None
    return made


class Progress(Callback):
    """One line: optimiser steps done, their speed, the time left, what the module shows of itself.

    Args:
        every: the module's figures are read so many steps apart; to read them, the host waits for the device.
    """

    def __init__(self, every: int):
        self.every = every
        self._bar: tqdm = tqdm(disable=True)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        told = {"total": trainer.max_steps, "initial": trainer.global_step, "disable": not trainer.is_global_zero}
        self._bar = tqdm(desc="training", unit="step", dynamic_ncols=True, smoothing=0.05, mininterval=0.5, **told)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done = trainer.global_step - self._bar.n  # 0 within a step
        if done and trainer.global_step % self.every == 0 and not self._bar.disable:
            shown = {name: f"{float(value):.4g}" for name, value in trainer.progress_bar_metrics.items()}
            if module.device.type == "cuda":
                shown["memory"] = f"{torch.cuda.max_memory_allocated(module.device) / 1e9:.3g} GB"
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done)

    def teardown(self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str) -> None:
        self._bar.close()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._bar.close()


class Seconds(Callback):
    """How long a run took up to a checkpoint, over all the processes that it took: `seconds` there, by stage.

    Args:
        prepared: what this process took before it trains.
    """

    def __init__(self, prepared: float):
        self.seconds = {"prepare": prepared, "train": 0.0}
        self._began = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._began = time.perf_counter() - self.seconds["train"]

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["seconds"] = {**self.seconds, "train": time.perf_counter() - self._began}

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for stage, seconds in checkpoint["seconds"].items():
            self.seconds[stage] += seconds


class Metrics:
    """`metrics.csv` of a run, put together from the parts that each start or resumption wrote."""

    def __init__(self, directory: Path):
        self.directory = directory

    def part(self, first_step: int) -> Path:
        """The folder into which training from `first_step` on logs."""
        return self.directory / "metrics" / f"from_{first_step:08d}"

    def merged(self) -> Path:
        """Write `metrics.csv`: of each part, the steps before the next part began."""
        parts = sorted((self.directory / "metrics").glob("from_*/metrics.csv"))
        starts = [int(part.parent.name.removeprefix("from_")) for part in parts]
        records: list[dict[str, str]] = []
        for part, end in zip(parts, [*starts[1:], None], strict=False):
            with part.open() as file:
                records += [record for record in csv.DictReader(file) if end is None or int(record["step"]) < end]
        target = self.directory / "metrics.csv"
        write_csv(target, records)
        return target
