"""What Lightning writes while a run trains: metrics, checkpoints, the progress bar."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from drafter.files import write_csv


def callbacks(folder: Path, max_steps: int, monitor: str) -> list[Callback]:
    """Keep the best and the last checkpoint; the last one often, and after validations, so that it knows the best."""
    settings: dict[str, Any] = {"enable_version_counter": False}  # a resumed run overwrites
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode="max", save_weights_only=True, **settings)
    every = max(1, min(100, max_steps // 10))
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, save_on_train_epoch_end=True, **settings)
    validated = ModelCheckpoint(folder, "last", every_n_epochs=1, save_on_train_epoch_end=False, **settings)
    return [best, last, validated, TQDMProgressBar(refresh_rate=5)]


def loggers(part: Path, directory: Path) -> list[Logger]:
    """CSV into `part`, TensorBoard beside the run."""
    return [
        CSVLogger(part.parent, name="", version=part.name),
        TensorBoardLogger(directory, name="", version="tensorboard"),
    ]


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
