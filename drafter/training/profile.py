"""A profiler over some steps of a run."""

import logging
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.profiler import profile

log = logging.getLogger(__name__)


class Profile(Callback):
    """Writes what host and device do from step `first` to step `last`, counted from 1: a trace per rank.

    Args:
        directory: gets `profile-RANK.json`; chrome://tracing and ui.perfetto.dev show it.
    """

    def __init__(self, directory: Path, first: int, last: int):
        self.directory, self.first, self.last = directory, first, last
        self._running: profile | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, index: int
    ) -> None:
        if self._running is None and trainer.global_step + 1 == self.first:
            self._running = profile()
            self._running.start()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self._running is not None and trainer.global_step >= min(self.last, trainer.max_steps):
            path = self.directory / f"profile-{trainer.global_rank}.json"
            self._running.stop()
            self._running.export_chrome_trace(str(path))
            self._running, self.first = None, 0
            log.info("steps up to %d profiled: %s", trainer.global_step, path)
