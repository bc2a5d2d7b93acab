"""Uniform numbers as tokens: the only thing that a push-forward model has beside its backbone."""

import math

import torch
from torch import Tensor, nn

SLOWEST = 10000.0  # how many times slower than the first the last feature would turn


class NoiseEncoder(nn.Module):
    """z in [0, 1) and the temperature -> one input embedding.

    Both become cos and sin of 2 pi u f_i, f_i = periods * 10000^(-i / (D / 2)), side by side; then Linear 2D -> D, and
    x + MLP(LayerNorm(x)) with an MLP D -> 4D -> D (GELU).

    Args:
        width: D of the embedding.
        periods: of the fastest feature while z runs from 0 to 1. The source has 1, which leaves it to the MLP to tell
            narrow intervals of the cumulated law apart.
    Raises:
        ValueError: the width is odd.
    Source: arXiv:2606.10820; sizes and frequencies by its released code.
    """

    def __init__(self, width: int, periods: float = 1.0):
        super().__init__()
        if width % 2:
            raise ValueError(f"hidden_size={width}: noise is encoded in pairs of cosine and sine; choose an even width")
        self.width, self.periods = width, periods
        self.project = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, noise: Tensor, temperature: Tensor) -> Tensor:
        """Embeddings [..., D] of noise [...] under temperatures [...]."""
        both = torch.cat([self.features(noise), self.features(temperature.expand_as(noise))], dim=-1)  # [..., 2D]
        hidden = self.project(both.to(self.project.weight.dtype))  # [..., D]
        return hidden + self.narrow(nn.functional.gelu(self.widen(self.norm(hidden))))

    def features(self, u: Tensor) -> Tensor:
        """Cosines, then sines, of u [...]: float64 [..., D]."""
        half = self.width // 2
        index = torch.arange(half, dtype=torch.float64, device=u.device)
        angle = 2 * math.pi * self.periods * u.double()[..., None] * SLOWEST ** (-index / half)  # [..., D / 2]
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


def check_noise(noise: Tensor) -> None:
    """Raise a ValueError unless all numbers lie in [0, 1)."""
    if not bool(((noise >= 0) & (noise < 1)).all()):
        raise ValueError("noise: has values outside [0, 1); give uniform numbers, as torch.rand does")
