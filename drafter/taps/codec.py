"""How taps lie on disk: a record of bytes per token, exact or of 8 bits with a scale per token and tap."""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

NAMES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}


@dataclass
class Distortion:
    """How far decoded taps are from the true ones.

    Args:
        error, power: sums of squares of the difference and of the taps.
        worst: largest ratio of their norms in one tap of one token.
    """

    error: float = 0.0
    power: float = 0.0
    worst: float = 0.0

    @property
    def relative(self) -> float:
        """Root of error over power: 0 for an exact codec."""
        return (self.error / self.power) ** 0.5 if self.power else 0.0

    def add(self, other: "Distortion") -> None:
        self.error += other.error
        self.power += other.power
        self.worst = max(self.worst, other.worst)


class Codec:
    """Taps [N, T*D] to bytes and back.

    Args:
        name: `bfloat16`, `float32` or `int8`. With int8 a tap x of a token is kept as the integers round(x / s), where
            s = max|x| / 127 is kept in float32; each number is then at most s / 2 off.
        taps: T; width: D.
        dtype: of the taps, and of what decoding returns.
    """

    def __init__(self, name: str, taps: int, width: int, dtype: torch.dtype):
        self.name, self.taps, self.width, self.dtype = name, taps, width, dtype
        self.stored = NAMES[name]
        self.scales = 4 * taps if name == "int8" else 0
        self.bytes_per_token = taps * width * self.stored.itemsize + self.scales

    @property
    def exact(self) -> bool:
        return self.stored in (self.dtype, torch.float32)

    def encode(self, taps: Tensor) -> numpy.ndarray:
        """Records, uint8 [N, bytes_per_token], of taps [N, T*D]."""
        if self.name != "int8":
            return taps.to(self.stored).contiguous().view(torch.uint8).numpy()
        parts = taps.float().view(-1, self.taps, self.width)
        scale = parts.abs().amax(-1) / 127  # [N, T]
        whole = (parts / scale.where(scale > 0, 1.0)[..., None]).round().clamp(-127, 127).to(torch.int8)
        return torch.cat([scale.view(torch.uint8), whole.flatten(1).view(torch.uint8)], dim=1).numpy()

    def decode(self, records: numpy.ndarray) -> Tensor:
        """Taps [N, T*D] of records."""
        raw = torch.from_numpy(numpy.array(records))  # a copy: the file's pages are read-only
        if self.name != "int8":
            return raw.view(self.stored).to(self.dtype)
        scale = raw[:, : self.scales].contiguous().view(torch.float32)  # [N, T]
        whole = raw[:, self.scales :].contiguous().view(torch.int8).view(-1, self.taps, self.width)
        return (whole.float() * scale[..., None]).flatten(1).to(self.dtype)

    def distortion(self, taps: Tensor, records: numpy.ndarray) -> Distortion:
        """What encoding `taps` [N, T*D] as `records` lost."""
        if self.exact:
            return Distortion()
        true = taps.float().view(-1, self.taps, self.width)
        error = (self.decode(records).float().view_as(true) - true).square().sum(-1, dtype=torch.float64)  # [N, T]
        power = true.square().sum(-1, dtype=torch.float64)
        worst = (error / power.where(power > 0, 1.0)).max().sqrt()
        return Distortion(float(error.sum()), float(power.sum()), float(worst))
