"""The tensor contract of the objectives: per-slot scores in, values with weights out, one division for all.

Shapes: B batch, A anchors, G draft slots of a block (the anchor itself is not one), N valid slots, D width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class BlockScores:
    """What the drafter said about each slot; made once per step, so the vocabulary is visited once.

    Args:
        nll: [B, A, G] negative log-likelihood of the label in nats; 0 at invalid slots.
        hit: [B, A, G] whether the drafter's argmax is the label; False at invalid slots.
        valid: [B, A, G] slots that exist: they lie before the end of the answer and of the row.
        hidden: [N, D] the drafter's hidden states of the valid slots, in order; gradient norms are taken there.
        in_top_k: [B, A, G] whether the label is among the drafter's k likeliest tokens.
        log_acceptance, forward_kl, reverse_kl, jsd: [B, A, G] how the drafter's law differs from the verifier's, as in
            `losses.divergences`; 0 at invalid slots.
    """

    nll: Tensor
    hit: Tensor
    valid: Tensor
    hidden: Tensor | None = None
    in_top_k: Tensor | None = None
    log_acceptance: Tensor | None = None
    forward_kl: Tensor | None = None
    reverse_kl: Tensor | None = None
    jsd: Tensor | None = None

    def __post_init__(self):
        if not self.nll.shape == self.hit.shape == self.valid.shape or self.nll.dim() != 3:
            shapes = f"nll {list(self.nll.shape)}, hit {list(self.hit.shape)}, valid {list(self.valid.shape)}"
            raise ValueError(f"BlockScores: {shapes}: all three must be of one shape [B, A, G]")

    def need(self, field: str, loss: str) -> Tensor:
        """An optional field that a loss cannot do without."""
        value: Tensor | None = getattr(self, field)
        if value is None:
            raise ValueError(f"losses.{loss} needs BlockScores.{field}: score with Losses.needs and verifier_hidden")
        return value


OverRanks = Callable[[Tensor], Tensor]


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of `value` over the ranks of the default process group; `value` itself without one."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@dataclass(frozen=True)
class Term:
    """Values and their weights, of one shape: [B, A, G] where slots count, [B, A] where blocks do."""

    values: Tensor
    weights: Tensor

    def mean(self, total_weight: Tensor | None = None) -> Tensor:
        """sum(v * w) / sum(w), the only division there is; 0, with zero gradient, where nothing has weight.

        Args:
            total_weight: what to divide by; None for the mean over ranks of sum(w). With R ranks that is the global
                weight / R, so each rank returns R times its share, and what DDP averages is the global mean.
        """
        if total_weight is None:
            total_weight = mean_over_ranks(self.weights.sum())
        weighted = (self.values * self.weights).masked_fill(self.weights == 0, 0)  # an inf of no weight is no NaN
        return weighted.sum() / torch.where(total_weight == 0, 1, total_weight)


@dataclass
class Loss:
    """An objective that is its own configuration: calling it gives a Term, never a reduced number.

    Args:
        weight: coefficient in the objective; null or 0: off, and not computed.
        warmup_steps: the coefficient rises linearly from 0 over these steps; 0 for none.
        gradient_cap: the coefficient is lowered, step by step, so that this loss's gradient in the slots' hidden states
            is at most this many times the other losses' together; null for no cap. See `losses.capping`.
    Raises:
        ValueError: a negative or infinite weight, negative warmup_steps, a cap that is not above 0.
    """

    name: ClassVar[str]
    is_reward: ClassVar[bool] = False  # its Term holds negated rewards; logged as the reward

    weight: float | None = None
    warmup_steps: int = 0
    gradient_cap: float | None = None

    def __post_init__(self):
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(
                f"losses.{self.name}.weight={self.weight}: must be finite and >= 0; null or 0 turns it off"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"losses.{self.name}.warmup_steps={self.warmup_steps}: must be >= 0; 0 for no warm-up")
        if self.gradient_cap is not None and not 0 < self.gradient_cap < math.inf:
            raise ValueError(
                f"losses.{self.name}.gradient_cap={self.gradient_cap}: must be finite and > 0, or null for no cap"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The scores that the loss differentiates."""
        return frozenset({"nll"})

    def __call__(self, scores: BlockScores) -> Term:
        raise NotImplementedError

    def known_weight(self, slots: Tensor) -> Tensor | None:
        """What the weights of a batch add up to, where that is known before the drafter has seen it; else None.

        Args:
            slots: [G] how many of its blocks have a valid slot k. A block's valid slots are a prefix, so all of its
                blocks with a valid slot are `slots[0]`.
        """
        return None

    def coefficient(self, step: int | None = None) -> float:
        """The weight at `step` of training, counted from 0; None: after warm-up."""
        if step is None or step >= self.warmup_steps:
            return self.weight or 0.0
        return (self.weight or 0.0) * step / self.warmup_steps

    def check_decay(self, decay_slots: float | None) -> None:
        if decay_slots is not None and not decay_slots > 0:
            raise ValueError(f"losses.{self.name}.decay_slots={decay_slots}: must be > 0, or null for uniform")


def slot_decay(
    draft_length: int,
    decay_slots: float | None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[G] exp(-i / decay_slots) for i = 0..G-1, which is slot k = i + 1; ones for None."""
    index = torch.arange(draft_length, dtype=torch.float64, device=device)  # [G]
    decay = torch.ones_like(index) if decay_slots is None else torch.exp(-index / decay_slots)  # [G]
    return decay.to(dtype)


def decay_where(chosen: Tensor, decay_slots: float | None, dtype: torch.dtype) -> Tensor:
    """[B, A, G] the slot decay where `chosen`, else 0."""
    return chosen * slot_decay(chosen.shape[-1], decay_slots, chosen.device, dtype)


def valid_prefix(valid: Tensor) -> Tensor:
    """[B, A, G] True up to the first invalid slot: nothing behind a hole can be accepted."""
    return valid.cumprod(-1).bool()
