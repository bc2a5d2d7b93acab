"""What the checkpoints of a run take of a disk, and whether it has room for them: said before the first step."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from drafter.config import FittingConfig
from drafter.training.budget import GIGABYTE, MOMENTS
from drafter.training.optimisation import never_fell


class Fit(NamedTuple):
    """One of the fits of a run.

    Attributes:
        saved: bytes of all that a checkpoint saves but the optimiser's states; an average too.
        trained: bytes of what the optimiser trains.
        left: bytes of the weights that it leaves.
        more: steps may follow, where the learning rates allow it.
    """

    settings: FittingConfig
    saved: float
    trained: float
    left: float
    more: bool = False

    @property
    def ended(self) -> float:
        """Bytes of its checkpoints once it has ended, at most: the best and the last."""
        if self.more and never_fell(self.settings):
            return checkpoint_bytes(self.saved, self.trained, replace(self.settings, keep=1))[0]
        return 2 * self.left


def expected(fits: Sequence[Fit], directory: Path) -> str:
    """In a line, what the checkpoints of fits take, one fit behind the other."""
    most = before = 0.0
    for fit in fits:
        most = max(most, before + sum(checkpoint_bytes(fit.saved, fit.trained, fit.settings)))
        before += fit.ended
    return f"checkpoints: up to {most / GIGABYTE:.3g} GB in {directory}, {before / GIGABYTE:.3g} once it has ended"


def weights_of_model(model: nn.Module) -> float:
    """Bytes of a model's weights in float32, each once, on whatever device."""
    return 4.0 * sum(weight.numel() for weight in model.parameters())


def checkpoint_bytes(weights: float, trained: float, settings: FittingConfig) -> tuple[float, float]:
    """Bytes of checkpoints while a run goes on, and of what is written beside them before it takes its place.

    One holds the best weights; `settings.keep` hold weights and the optimiser's states.

    Args:
        weights: bytes of all that is saved, an average too.
        trained: bytes of what the optimiser trains.
    """
    whole = weights + MOMENTS[settings.optimizer] * trained
    return weights + settings.keep * whole, whole if settings.keep == 1 else weights


def require_room(module: nn.Module, folder: Path, settings: FittingConfig) -> None:
    """Refuse a run whose checkpoints would fill the disk.

    Args:
        folder: of its checkpoints; what lies there is room, too.
    Raises:
        ValueError: the disk has less room than they take.
    """
    trained = bytes_of(weight for weight in module.parameters() if weight.requires_grad)
    held, written = checkpoint_bytes(bytes_of(module.state_dict().values()), trained, settings)
    there = {facts.st_ino: facts.st_size for path in folder.rglob("*") for facts in [path.stat()]}  # a link is no copy
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free + sum(there.values())
    if held + written > free:
        less = "lower it, or set output" if settings.keep > 1 else "set output"
        raise ValueError(
            f"training.keep={settings.keep}: checkpoints take up to {(held + written) / GIGABYTE:.3g} GB in {folder}, "
            f"{free / GIGABYTE:.3g} GB are free; {less} to another disk"
        )


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of what tensors hold, each storage once."""
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())
