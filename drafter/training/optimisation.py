"""The optimiser of a recipe, and its learning rate from step to step."""

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter

from drafter.config import FittingConfig


def optimisation(parameters: Iterable[Parameter], settings: FittingConfig) -> dict:
    """AdamW with the recipe's schedule, as `configure_optimizers` gives it; matrices alone decay, norms never."""
    kept = [each for each in parameters if each.requires_grad]
    groups = [
        {"params": [each for each in kept if each.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [each for each in kept if each.dim() < 2], "weight_decay": 0.0},
    ]
    options: dict = {"lr": settings.learning_rate, "eps": settings.epsilon}
    options["fused"] = settings.precision != "float16"  # a fused step unscales gradients itself, behind their clipping
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(settings, step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def learning_rate(settings: FittingConfig, step: int) -> float:
    """The learning rate of `step`, counted from 0, as a share of `settings.learning_rate`.

    `cosine` falls to 0 over all steps behind the warm-up; `stable` stays until `settings.cooldown` of the steps are
    left and falls to 0 in them, in a line (warm-up-stable-decay, arXiv:2404.06395); `constant` stays.
    """
    steps = settings.max_steps
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
    if settings.schedule == "stable":
        return min(1.0, max(0, steps - step) / max(1, round(settings.cooldown * steps)))
    return 1.0
