"""Strategies for several ranks, and weights that they share out (FSDP2)."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed import DistError
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from drafter.config import FittingConfig
from drafter.files import UNFINISHED, remove_folder


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share out a model's weights, gradients and optimiser states in place.

    In one unit, whole while a step uses it: a drafter calls parts of its layers by themselves, for the context.
    """
    fully_shard(model, mesh=mesh)


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a model that `shard` took apart, on the CPU of the first rank; every rank must call."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: Any = get_model_state_dict(model, options=options)
    return cast(dict[str, torch.Tensor], weights)


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for one dimension of data-parallel ranks, with checkpoints that are whole or not there.

    Args:
        folders: checkpoints are folders of one file a rank; otherwise the first rank gathers all and writes one file.
        timeout: after which a rank gives up waiting for the others.
    """

    def __init__(self, world: int, folders: bool, timeout: timedelta):
        super().__init__(world, 1, folders, timeout=timeout)
        self.folders = folders

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        if not self.folders:
            return super().save_checkpoint(checkpoint, filepath, storage_options)
        place = Path(self.broadcast(str(filepath)))
        scratch = place.with_name(f".{place.name}{UNFINISHED}")
        if self.global_rank == 0 and scratch.exists():
            shutil.rmtree(scratch)
        self.barrier()
        super().save_checkpoint(checkpoint, scratch)
        self.barrier()
        if self.global_rank == 0:
            if place.is_dir():
                remove_folder(place)
            scratch.replace(place)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """As Lightning's, but an optimiser's states in a file belong to its groups' weights in their order.

        Lightning takes them for those of the model's, and could not go on from what another strategy wrote.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        if path.is_dir():
            return super().load_checkpoint(path, weights_only)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, self._by_name(optimizer, saved), options=options)
        return checkpoint

    def _by_name(self, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        """An optimiser's states by the names of weights, in place of their numbers."""
        names = {weight: name for name, weight in self.model.named_parameters()}
        states: dict[str, Any] = {}
        groups = []
        for ours, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True):
            held = [names[weight] for weight in ours["params"]]
            states |= {name: saved["state"][number] for name, number in zip(held, theirs["params"], strict=True)}
            groups.append({**theirs, "params": held})
        return {"state": states, "param_groups": groups}


def strategy_of(settings: FittingConfig, world: int) -> str | Strategy:
    """What Lightning is told of `training.strategy`; of one rank, nothing waits for another."""
    patience = timedelta(minutes=settings.patience)
    if settings.strategy == "fsdp":
        return Sharded(world, settings.sharded_checkpoints, patience)
    if settings.strategy == "ddp" or world > 1:  # buffers are constants, the same on every rank
        return DDPStrategy(timeout=patience, broadcast_buffers=False, gradient_as_bucket_view=True)
    return "auto"


@contextmanager
def rank_losses_named(trainer: lightning.Trainer) -> Iterator[None]:
    """Say in one line that another rank is gone, where waiting for it failed.

    Raises:
        ValueError: so it is.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, DistError) or "gloo" in str(error) or "Timed out waiting" in str(error)
        if trainer.world_size == 1 or not lost:
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2].rstrip(".")
        where = f"rank {trainer.global_rank} lost another one behind step {trainer.global_step}"
        remedy = "what that one said last is why; the same command goes on from the last checkpoint"
        raise ValueError(f"training: {where} ({reason}); {remedy}") from error
