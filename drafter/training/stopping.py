"""What ends a run behind a whole step, with a checkpoint, so that the same command goes on.

Ctrl-C, SIGTERM, and a server that training waits for in vain.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from drafter.engine.client import Gone
from losses import mean_over_ranks

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(Callback):
    """Waits for a signal while training; a second one ends the process at once.

    Args:
        checkpoint: where to save.
        every: several ranks agree so many steps apart; one stops at its next step.
    Raises:
        SystemExit: of the signal's number + 128, as a shell says it.
    """

    def __init__(self, checkpoint: Path, every: int):
        self.checkpoint, self.every = checkpoint, every
        self.asked = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # nobody else may
            for number in SIGNALS:
                signal.signal(number, self._ask)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        ends = trainer.global_step >= trainer.max_steps
        within = (index + 1) % trainer.accumulate_grad_batches != 0
        validates = (index + 1) % trainer.val_check_batch == 0  # a checkpoint before it would leave it out
        if ends or within or validates or not self._agreed(trainer):
            return
        trainer.save_checkpoint(self.checkpoint)
        rank_zero_only(log.info)("stopped behind step %d; the same command goes on", trainer.global_step)
        raise SystemExit(128 + (self.asked or signal.SIGTERM))

    def on_exception(self, trainer: lightning.Trainer, module: lightning.LightningModule, error: BaseException) -> None:
        """Save where the next batch can't be had: of several ranks, others are within a step."""
        if isinstance(error, Gone) and trainer.world_size == 1:
            trainer.save_checkpoint(self.checkpoint)

    def _agreed(self, trainer: lightning.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.asked > 0
        if trainer.global_step % self.every:
            return False
        return bool(mean_over_ranks(torch.tensor(float(self.asked > 0), device=trainer.strategy.root_device)) > 0)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        log.info("stopping behind this step, with a checkpoint; again to stop at once")


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back what signals did before: the trainer leaves its own handlers behind an exception."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
