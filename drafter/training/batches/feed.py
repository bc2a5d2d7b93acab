"""Training batches as the trainer asks for them: it alone knows its rank, and the step with which it goes on."""

from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader

from drafter.config import AlignmentConfig, require
from drafter.data.on_disk import RowsOnDisk
from drafter.data.rows import Row
from drafter.taps import TapSource
from drafter.training.batches.assembly import Batch, averaged
from drafter.training.batches.loader import loader
from drafter.training.batches.steps import Steps
from drafter.training.batches.stream_steps import StreamSteps, readers
from drafter.training.fitting import Batches


class Feed(Batches):
    """Rows in memory, or of a stream, as batches with their taps.

    Args:
        rows: in memory; empty where they are streamed.
        world: how many ranks train.
    """

    def __init__(
        self, config: AlignmentConfig, rows: list[Row], on_disk: RowsOnDisk | None, taps: TapSource, world: int = 1
    ):
        super().__init__()
        self.config, self.rows, self.on_disk, self.taps, self.world = config, rows, on_disk, taps, world
        self.readers = readers(config, world) if on_disk else 0
        self.places: dict[int, tuple[int, ...]] = {}  # of a stream's readers: where they stand

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which the rows in memory are seen once."""
        return Steps(self.rows, None, self.config, 0, self.world).order.steps_per_epoch

    def loader(self, rank: int, first: int, last: int) -> DataLoader:
        settings = self.config.training
        made: StreamSteps | Steps
        if self.on_disk:
            stream, make = self.on_disk.stream, self.on_disk.make
            made = StreamSteps(stream, make, self.config, rank, self.world, first, dict(self.places))
        else:
            made = Steps(self.rows, self.taps if self.taps.ahead else None, self.config, rank, self.world)
        data = self.config.data
        ahead = data.tap_engine.prefetch if data.taps == "engine" else 0
        return loader(made, first, last, settings.workers, settings.accumulate, averaged, ahead)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Where taps are made within the step, make them."""
        if not isinstance(batch, Batch):  # of validation
            return batch
        if batch.place:
            self.places[batch.place[0]] = tuple(batch.place[1:])
        return batch if batch.taps is not None else batch._replace(taps=self.taps(batch.rows, batch.packs))

    def state_dict(self) -> dict[str, Any]:
        return {"readers": self.readers, "places": of_all_ranks(self.places)} if self.on_disk else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where readers stood.

        Raises:
            ValueError: they were more, or fewer.
        """
        found, devices = state["readers"], self.config.training.devices
        remedy = f"the checkpoint is of a stream's {found} readers; train with as many, or under another name"
        require(found == self.readers, "training.devices", devices, remedy)
        self.places = dict(state["places"])


def of_all_ranks(places: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Where the readers of all ranks stand; every rank must call."""
    if not dist.is_available() or not dist.is_initialized():
        return dict(places)
    gathered: list[dict[int, tuple[int, ...]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(gathered, places)
    return {reader: place for each in gathered for reader, place in each.items()}
