"""What stands between a bad gradient and the weights, whatever is trained."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from drafter.config import FittingConfig

BATCH = "skipped_batch.safetensors"


class Guard(Callback):
    """Clips gradients, and skips a step whose gradient is not finite: the weights stay as they are.

    It decides on the device, so that no step waits for the host; that looks every `log_every` steps, and at the end.

    Args:
        directory: gets the batch of the last skipped step where a run ends for it.
    Attributes:
        skipped: steps so far.
    Raises:
        ValueError: `settings.max_skipped` steps in a row were skipped, or, of a short run, half of its steps at its
            end.
    """

    def __init__(self, settings: FittingConfig, directory: Path):
        self.settings, self.path = settings, directory / BATCH
        self.most = max(1, min(settings.max_skipped, settings.max_steps // 2))
        self.skipped = self.in_a_row = torch.zeros(())

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip here: Lightning refuses to clip for a fused optimiser, whose step takes two thirds of the other's."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.settings.clip)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of shares, the whole's
        bad = (~norm.isfinite()).to(norm.dtype)
        self.skipped = self.skipped.to(norm.device) + bad
        self.in_a_row = (self.in_a_row.to(norm.device) + 1) * bad
        module.log("gradient_norm/all", norm)
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # a fused step looks at this itself, on the device
            optimizer.found_inf = bad  # type: ignore[attr-defined]
        elif bad:
            optimizer.zero_grad()  # without gradients, it changes nothing

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step % self.settings.log_every == 0 or trainer.global_step >= self.settings.max_steps:
            self._look(trainer, batch)

    def _look(self, trainer: lightning.Trainer, batch: Any) -> None:
        if self.in_a_row < self.most:
            return
        if trainer.is_global_zero:
            save_file({name: each.cpu().contiguous() for name, each in tensors_of(batch)}, self.path)
        raise ValueError(
            f"training: the gradient of {int(self.in_a_row)} steps in a row, up to step {trainer.global_step}, was not "
            "finite; lower training.learning_rate or the weight of a loss, under another name (the last batch is in "
            f"{self.path})"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = (torch.tensor(float(state[name])) for name in ("skipped", "in_a_row"))


def tensors_of(value: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """The tensors in tuples, lists, dicts and dataclasses, by where they stand there."""
    if isinstance(value, Tensor):
        yield name, value
    elif is_dataclass(value):
        for each in fields(value):
            yield from tensors_of(getattr(value, each.name), f"{name}.{each.name}")
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from tensors_of(each, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        for key, each in zip(names, value, strict=True):
            yield from tensors_of(each, f"{name}.{key}")
