"""What the trainer shows while a run trains: metrics, one line of progress."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tqdm import tqdm

from drafter.files import remove_folder, write_csv
from drafter.machine.memory import peak_memory


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
    """One line: optimiser steps done, the time left, speed, memory, what the module shows of itself.

    Of what a module counts in its `amounts`, as tokens, so much a second is shown, over all ranks.

    Args:
        every: the module's figures are read so many steps apart; to read them, the host waits for the device.
    """

    def __init__(self, every: int):
        self.every = every
        self._bar: tqdm = tqdm(disable=True)
        self._before: tuple[float, dict[str, int]] = 0.0, {}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._before = time.perf_counter(), dict(getattr(module, "amounts", {}))
        told = {"total": trainer.max_steps, "initial": trainer.global_step, "disable": not trainer.is_global_zero}
        self._bar = tqdm(desc="training", unit="step", dynamic_ncols=True, smoothing=0.05, mininterval=0.5, **told)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        done = trainer.global_step - self._bar.n  # 0 within a step
        if done and trainer.global_step % self.every == 0 and not self._bar.disable:
            shown = {name: f"{float(value):.4g}" for name, value in trainer.progress_bar_metrics.items()}
            shown["memory"] = f"{peak_memory(module.device) / 1e9:.3g} GB"
            self._bar.set_postfix({**self._speeds(trainer, module), **shown}, refresh=False)
        self._bar.update(done)

    def _speeds(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, str]:
        """Of what the module has seen since this was last asked, so much a second."""
        now, seen = time.perf_counter(), dict(getattr(module, "amounts", {}))
        (then, before), self._before = self._before, (now, seen)
        each = trainer.world_size / (now - then)
        return {f"{name}/s": f"{(count - before.get(name, 0)) * each:.3g}" for name, count in seen.items()}

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

    def forget(self, first_step: int) -> None:
        """Drop the parts that began at `first_step` or later: a checkpoint broke, and training goes on before them."""
        for part in (self.directory / "metrics").glob("from_*"):
            if part >= self.part(first_step):
                remove_folder(part)

    def part(self, first_step: int) -> Path:
        """The folder into which training from `first_step` on logs."""
        return self.directory / "metrics" / f"from_{first_step:08d}"

    def merged(self) -> Path:
        """Write `metrics.csv`: of each part, the steps before the next part began."""
        parts = sorted((self.directory / "metrics").glob("from_*/metrics.csv"))
        starts = [int(part.parent.name.removeprefix("from_")) for part in parts]
        records: list[dict[str, str]] = []
        for part, end in zip(parts, [*starts[1:], None], strict=False):
            content = part.read_text()
            whole = io.StringIO(content[: content.rfind("\n") + 1])  # a full disk may have torn the last line
            records += [record for record in csv.DictReader(whole) if end is None or int(record["step"]) < end]
        target = self.directory / "metrics.csv"
        write_csv(target, records)
        return target
