"""The output head: the one place where hidden states become logits, and so laws."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class OutputHead:
    """softcap * tanh(z / softcap) with z = scale * (hidden @ weight.T + bias); plain z without a soft cap.

    Args:
        weight: [V, D].
        bias: [V] or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., D] of any dtype, in the head's own."""
        flat = hidden.reshape(-1, hidden.shape[-1])  # a slice of blocks as it is, torch would multiply block by block
        logits = functional.linear(flat.to(self.weight.dtype), self.weight, self.bias)
        logits = logits.view(*hidden.shape[:-1], len(self.weight))
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def rows(self, ids: Tensor | None) -> "OutputHead":
        """The head over the tokens `ids` [V'] alone; None for all of them."""
        if ids is None:
            return self
        ids = ids.to(self.weight.device)
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids])

    def to(self, dtype: torch.dtype) -> "OutputHead":
        """The same head with weights in `dtype`."""
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))

    def folded(self) -> Tensor:
        """One matrix [V, D or D + 1] whose product with `unfolded` states are the logits.

        Raises:
            ValueError: a soft cap is no product.
        """
        if self.softcap is not None:
            raise ValueError(f"verifier: its logits are soft-capped at {self.softcap:g}, no plain product")
        return self.weight if self.bias is None else torch.cat([self.weight, self.bias[:, None]], dim=1)

    def unfolded(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] as `folded` multiplies them: scaled, with a column for the bias."""
        if self.bias is not None:
            hidden = torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1)
        return hidden if self.scale == 1 else hidden * self.scale
