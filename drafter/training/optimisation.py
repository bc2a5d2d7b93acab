"""The optimiser of a recipe, and its learning rate from step to step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from drafter.config import FittingConfig


def optimisation(model: nn.Module, settings: FittingConfig) -> dict:
    """The recipe's optimiser and schedule, as `configure_optimizers` gives them.

    Matrices alone decay: norms and biases never do.
    """
    kept = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "muon":
        optimizer = MuonWithAdamW(hidden_matrices(model), kept, settings)
    else:
        optimizer = adamw(kept, settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(settings, step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def adamw(weights: list[Parameter], settings: FittingConfig) -> torch.optim.AdamW:
    """AdamW, fused."""
    groups = [
        {"params": [each for each in weights if each.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [each for each in weights if each.dim() < 2], "weight_decay": 0.0},
    ]
    options: dict = {"lr": settings.learning_rate, "eps": settings.epsilon}
    options["fused"] = settings.precision != "float16"  # a fused step unscales gradients itself, behind their clipping
    return torch.optim.AdamW([group for group in groups if group["params"]], **options)


def hidden_matrices(model: nn.Module) -> list[Parameter]:
    """The trained matrices of a model that map hidden states to hidden states: no embedding, no output head."""
    outer = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        outer.add(id(head.weight))
    return [each for each in model.parameters() if each.requires_grad and each.dim() == 2 and id(each) not in outer]


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (arXiv:2502.16982) for some matrices, AdamW for all else, as one optimiser: its groups are theirs.

    Muon's updates are scaled to the root mean square of AdamW's, so that one learning rate serves both.

    Args:
        matrices: for Muon.
        weights: all, the matrices among them.
    Raises:
        ValueError: there is no such matrix.
    """

    def __init__(self, matrices: list[Parameter], weights: list[Parameter], settings: FittingConfig):
        if not matrices:
            raise ValueError("training.optimizer='muon': there is no hidden matrix to train; choose adamw")
        rate, decay = settings.learning_rate, settings.weight_decay
        muon = torch.optim.Muon(matrices, rate, decay, adjust_lr_fn="match_rms_adamw")
        taken = {id(each) for each in matrices}
        rest = [each for each in weights if id(each) not in taken]
        self.parts: list[torch.optim.Optimizer] = [muon, *([adamw(rest, settings)] if rest else [])]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts see what this one was given: its groups, which a schedule changes, and its state."""
        at = 0
        for part in self.parts:
            part.param_groups, at = self.param_groups[at : at + len(part.param_groups)], at + len(part.param_groups)
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


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


def never_fell(settings: FittingConfig) -> bool:
    """Whether the last step had the full learning rate: then more of them may follow, as if it had been meant so."""
    return learning_rate(settings, settings.max_steps - 1) == 1
