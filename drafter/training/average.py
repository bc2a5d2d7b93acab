"""A moving average of a model's weights, which is often better than the weights themselves."""

import copy

import torch
from torch import nn


class Average(nn.Module):
    """The average of the weights behind steps 1 to n, its memory `decay` once there have been enough of them.

    After step n: average <- average + (1 - d) (weights - average), d = min(decay, (1 + n) / (10 + n)), so that the
    weights before training are soon forgotten. It follows from weights and step alone: a resumed run has the same.

    Args:
        model: begins it; is not changed.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__()
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def take(self, model: nn.Module, step: int) -> None:
        """Take in the weights behind `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for ours, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 1 - decay)
