"""Fitting: any Lightning module on any batches, from where its last checkpoint stands to the best of its checkpoints.

It knows no drafter, no taps and no system. A system of several stages gives each stage a directory of its own: a stage
that has ended is not trained again, and keeps no more than is read of it.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, TensorDataset

from drafter.config import FittingConfig
from drafter.machine.precision import keep_float32_exact
from drafter.machine.ranks import lightning_devices, ranks
from drafter.training.checkpoints import Previous, Recount, WholeFiles, checkpoints, leave, resumable
from drafter.training.guard import Guard
from drafter.training.logs import Metrics, Progress, Seconds, loggers
from drafter.training.optimisation import never_fell
from drafter.training.profile import Profile
from drafter.training.room import require_room
from drafter.training.sharding import rank_losses_named, strategy_of
from drafter.training.stopping import Stop, handlers_kept

log = logging.getLogger(__name__)
MIXED: dict[torch.dtype, Any] = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}
STARTER = "lightning.fabric.strategies.launchers.subprocess_script"  # says so where a process that it started has died
logging.getLogger(STARTER).setLevel(logging.INFO)
for name in ("lightning.pytorch", "lightning.fabric"):  # what matters of theirs is said in our own words
    logging.getLogger(name).setLevel(logging.WARNING)
OF_NO_CONCERN = (
    ".*Mismatch dtype between input and weight.*",  # norms in float32 beside bfloat16 are meant so
    ".*treespec, LeafSpec.*",  # between the trainer and its tree library
    ".*exists and is not empty.*",  # that is what resuming is
    ".*in eval mode at the start of training.*",  # which mode a part is in is its module's affair
    ".*callbacks used to create the checkpoint.*",  # the last one may now be written more often, or less
    ".*smaller than the logging interval.*",
    ".*does not have many workers.*",
    ".*returned a view tensor.*",  # nobody changes it in place
    ".*broadcast_buffers. is deprecated.*",  # its heir is not in all versions yet
    ".*sync_dist=True.* when logging on epoch level.*",  # what validation finds is told to all ranks before
)


class Batches(lightning.LightningDataModule):
    """What a module trains on, as the trainer asks for it: it alone knows its rank and the step with which it goes on.

    What a resumed run must know beside the number of its first batch goes into `state_dict`.
    """

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps between validations where a recipe does not say."""
        raise NotImplementedError

    def loader(self, rank: int, first: int, last: int) -> DataLoader:
        """This rank's batches number `first` to `last`, of a length counted from 0."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader:
        trainer: Any = self.trainer
        each = trainer.accumulate_grad_batches
        return self.loader(trainer.global_rank, trainer.global_step * each, trainer.max_steps * each)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.zeros(1)))  # a validation is a step of the module's own making


def fit(
    module: lightning.LightningModule,
    batches: Batches,
    directory: Path,
    settings: FittingConfig,
    monitor: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    prepared: float = 0.0,
    left: str = "",
    more: bool = False,
) -> Path:
    """Train `module` to `settings.max_steps`, from the last checkpoint in `directory` if there is one.

    Args:
        directory: gets `checkpoints/`, `metrics/` and `tensorboard/`.
        monitor: what the module logs in validation and the best checkpoint has most of.
        device: where the module ends.
        dtype: bfloat16 or float16 for mixed precision: parameters stay float32.
        prepared: seconds that this process took before.
        left: the child of the module whose weights are kept once it has ended; '' for all of it.
        more: a recipe may ask for more steps behind these, where their learning rates allow it (see `claim`).
    Raises:
        ValueError: too many steps in a row had no finite gradient (see `Guard`), all checkpoints are damaged, the disk
            has no room for them, or more steps are asked of a fit that ended for good.
        SystemExit: a signal ended it; see `Stop`.
    Returns:
        the best checkpoint, or the last where none was validated; its weights are not loaded.
    """
    last = directory / "checkpoints/last.ckpt"
    begun, state = resumable(last.parent)
    first = state.get("global_step", 0)
    ending = last.parent, settings.max_steps, left, more and never_fell(settings)
    if first >= settings.max_steps:
        module.on_load_checkpoint(state)  # of a run that has ended, no trainer does
        return _left(*ending)
    if begun is not None and "optimizer_states" not in state:
        remedy = f"{directory} ended at step {first} and keeps its weights alone; train anew under another name"
        raise ValueError(f"training.max_steps={settings.max_steps}: {remedy}")
    if begun is not None and begun.is_dir() and not settings.sharded_checkpoints:
        words = "training.sharded_checkpoints=true training.strategy=fsdp"
        raise ValueError(f"{begun}: its ranks shared it out; go on with {words}")
    metrics = Metrics(directory)
    if not rank_zero_only.rank:
        require_room(module, last.parent, settings)
        metrics.forget(first)
    keep_float32_exact()
    if first:
        log.info("resuming %s at step %d of %d", directory.name, first, settings.max_steps)
    trainer = lightning.Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=lightning_devices(settings.devices, device),
        num_nodes=settings.nodes,
        strategy=strategy_of(settings, ranks(settings.devices, device, settings.nodes)),
        precision=MIXED.get(dtype, "32-true"),
        max_steps=settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=(settings.validate_every or batches.steps_per_epoch) * settings.accumulate,
        check_val_every_n_epoch=None,
        log_every_n_steps=settings.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[
            Seconds(prepared),
            Previous(last, settings.keep),
            Recount(),
            Guard(settings, directory),
            Stop(last, settings.log_every),
            Progress(settings.log_every),
            *([Profile(directory, *settings.profile)] if settings.profile else []),
            *checkpoints(last.parent, settings.max_steps, monitor),
        ],
        plugins=[WholeFiles()],
        logger=loggers(settings.loggers, metrics.part(first), directory),
    )
    with handlers_kept(), warnings.catch_warnings():
        for message in OF_NO_CONCERN:
            warnings.filterwarnings("ignore", message)
        with rank_losses_named(trainer):
            trainer.fit(module, datamodule=batches, ckpt_path=begun, weights_only=True)
    module.to(device)  # the trainer leaves a module on the CPU
    return _left(*ending)


def _left(folder: Path, steps: int, child: str, whole: bool) -> Path:
    """The best checkpoint, or the last where none was validated, once what nothing reads of a fit's end is dropped."""
    if not rank_zero_only.rank:
        leave(folder, steps, child, whole)
    return next(path for path in (folder / "best.ckpt", folder / "last.ckpt") if path.exists())
