"""The output head: the one place where hidden states become logits, and so laws."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast

from drafter.machine.tiling import Tiled
from drafter.verifier.loading import FOREIGN

SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier")  # of a config; some multiply, some divide
LARGE, CLOSE = 50.0, 1e-2  # logits to compare at, and how far apart they may be, relatively
SOFTCAPS = ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap")


@dataclass(frozen=True)
class OutputHead:
    """softcap * tanh(z / softcap) with z = scale * (hidden @ weight.T + bias); plain z without a soft cap.

    Args:
        weight: [V, D].
        bias: [V] or None.
        tiled: makes hidden @ weight.T + bias where no gradient is asked for.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    tiled: Tiled | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normed hidden states [..., D] of any dtype, in the head's own."""
        flat = hidden.reshape(-1, hidden.shape[-1])  # a slice of blocks as it is, torch would multiply block by block
        flat = flat.to(self.weight.dtype)
        if self.tiled is None or flat.requires_grad:
            logits = functional.linear(flat, self.weight, self.bias)
        else:
            logits = self.tiled(flat)
        logits = logits.view(*hidden.shape[:-1], len(self.weight))
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def rows(self, ids: Tensor | None) -> "OutputHead":
        """The head over the tokens `ids` [V'] alone; None for all of them."""
        if ids is None:
            return self
        ids = ids.to(self.weight.device)
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids], tiled=None)

    def to(self, dtype: torch.dtype) -> "OutputHead":
        """The same head with weights in `dtype`."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias, tiled=None)

    def tile(self) -> "OutputHead":
        """The same head with its weight tiled as it is now."""
        return replace(self, tiled=Tiled(self.weight, self.bias))

    def folded(self) -> Tensor:
        """One matrix [V, D or D + 1] whose product with `unfolded` states are the logits, before a soft cap."""
        return self.weight if self.bias is None else torch.cat([self.weight, self.bias[:, None]], dim=1)

    def unfolded(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] as `folded` multiplies them: scaled, with a column for the bias."""
        if self.bias is not None:
            hidden = torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1)
        return hidden if self.scale == 1 else hidden * self.scale


class _Output(BaseModelOutputWithPast):
    """What a body puts out; whatever else a family's own body would is None."""

    def __getattr__(self, name: str) -> None:
        return None


def body_of(model: Any) -> Any:
    """What makes the hidden states of a causal LM."""
    found = model.get_decoder()
    return model.model if found is model and hasattr(model, "model") else found  # transformers finds some not


@torch.inference_mode()
def output_of(model: Any) -> OutputHead:
    """The head that a causal LM has: of those its config may mean, the one that makes of hidden states what it makes.

    Raises:
        ValueError: none of them does.
    """
    name = type(model).__name__
    linear, body = model.get_output_embeddings(), body_of(model)
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"verifier: {name} has no linear output head; choose another")
    count, width = 8, linear.in_features
    hidden = torch.sin(torch.arange(count * width, device=linear.weight.device)).view(1, count, width)
    hidden = hidden.to(linear.weight.dtype)
    hidden = hidden * (LARGE / functional.linear(hidden, linear.weight).abs().max())  # so that a soft cap is felt
    ids = torch.ones(1, count, dtype=torch.long, device=hidden.device)
    own = vars(body).get("forward")
    body.forward = lambda *_, **__: _Output(last_hidden_state=hidden)  # no layer runs
    try:
        expected = model(input_ids=ids, use_cache=False).logits.float()
    except FOREIGN as error:
        raise ValueError(
            f"verifier: {name} makes its logits of more than hidden states ({error}); choose another"
        ) from error
    finally:
        del body.forward
        if own is not None:
            body.forward = own
    for head in _candidates(model.config.get_text_config(), linear):
        found = head(hidden).float()
        if found.shape == expected.shape and (found - expected).norm() < CLOSE * expected.norm():
            return head
    raise ValueError(f"verifier: the logits of {name} are not its head's, scaled or soft-capped; choose another")


def _candidates(config: Any, linear: nn.Linear) -> Iterator[OutputHead]:
    factors = [float(value) for name in SCALES if (value := getattr(config, name, None))]
    caps = [float(value) for name in SOFTCAPS if (value := getattr(config, name, None))]
    for scale, cap in product([1.0, *factors, *(1 / one for one in factors)], [None, *caps]):
        yield OutputHead(linear.weight, linear.bias, scale, cap)
