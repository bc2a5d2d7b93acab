"""From logits to the law that a token is drawn from: temperature, top-k, top-p."""

from dataclasses import dataclass
from operator import index as integer
from typing import Any

import torch
from torch import Tensor

from drafter.verification.base import NOTHING

LOWEST = 1e-6  # below it, logits over temperature overflow float32


@dataclass(frozen=True)
class Law:
    """How logits become the law that a token is drawn from; as it stands, by softmax alone.

    Args:
        temperature: 0 is greedy.
        top_p, top_k: see `probabilities`.
    Raises:
        ValueError: one is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        check_law(self.temperature, self.top_p, self.top_k)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def __call__(self, logits: Tensor) -> Tensor:
        """The law of each position, [..., V] -> float32 [..., V]."""
        return probabilities(logits, self.temperature, self.top_p, self.top_k)

    def scores(self, logits: Tensor) -> Tensor:
        """Log-probabilities of logits [..., V] at the temperature, which is 1 when greedy; nothing is left out."""
        return (logits.float() / (self.temperature or 1.0)).log_softmax(-1)


def whole(value: Any) -> int | None:
    """A whole number of any type, numpy's too, as an int; None if it is none."""
    try:
        return integer(value)
    except TypeError:
        return None


def check_law(temperature: float, top_p: float, top_k: int) -> None:
    """Raise a ValueError that names the field, its value and the remedy."""
    if not (temperature == 0 or LOWEST <= temperature < float("inf")):  # NaN is neither
        raise ValueError(f"temperature={temperature}: must be 0, which is greedy, or finite and at least {LOWEST}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must lie in (0, 1]; 1 keeps every token")
    if whole(top_k) is None or top_k < 0:
        raise ValueError(f"top_k={top_k}: must be a whole number >= 0; 0 keeps every token")


def probabilities(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """The adjusted law of each position.

    Args:
        logits: [..., V].
        temperature: 0 puts all mass on the argmax.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: of those, keep the smallest set of likeliest tokens whose mass reaches top_p.
    Returns:
        float32 [..., V], sums to 1.
    """
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    law = (logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = law.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of the likelier tokens
        law = law.scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))
        law = law / law.sum(-1, keepdim=True)
    return law


def likeliest(logits: Tensor) -> Tensor:
    """Where the highest logit stands, the first of equals: [..., V] -> [...].

    In bfloat16 on a CPU `max` takes a quarter of the time of `argmax`.
    """
    return logits.max(-1).indices


def likeliest_number(logits: Tensor) -> Tensor:
    """The same, `NOTHING` where one is a NaN."""
    best = logits.max(-1)
    return best.indices.masked_fill(best.values.isnan(), NOTHING)
