"""Matrices as oneDNN multiplies by them: laid out once, where each product would otherwise lay them out anew.

On CPUs in bfloat16 that is about half of the time of a product with few rows. The copy stands beside the weight.
"""

import copy
import logging
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from drafter import kernels
from drafter.machine.memory import free_memory

log = logging.getLogger(__name__)

SHARE = 0.5  # of the free memory that copies may take
ROWS = 4  # of the products that the layout is chosen for: a verify pass, a block
SIZES = (1, 2, 3, 4, 8, 16)  # rows at a time, of which it is tried whether a row has the bits that it has beside many
TRIED = 40_000  # numbers of a trial
Module = TypeVar("Module", bound=nn.Module)
_known: dict[tuple[int, int], list[int]] = {}  # by outputs and inputs


def why_not_tiled(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products in `dtype` on `device` stay as they are, or None."""
    if device.type != "cpu":
        return f"tiles are for CPUs, not for {device.type}"
    if dtype != torch.bfloat16:
        return f"tiles are for bfloat16, and {str(dtype).removeprefix('torch.')} stays as it is"
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this processor, or this build of torch, has no bfloat16 products of oneDNN"
    return None


def why_no_room(needed: int) -> str | None:
    """Why copies of `needed` bytes are too many for this machine now, or None."""
    free = free_memory()
    if free is None or needed <= SHARE * free:
        return None
    return f"copies of all matrices would take {needed / 1e9:.1f} of the {free / 1e9:.1f} GB that are free"


class TiledNorm(nn.Module):
    """torch's RMSNorm of bfloat16 in one call, where torch makes thirty; without a gradient."""

    def __init__(self, weight: Tensor, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return kernels.add_norm(x, None, self.weight, self.epsilon, once=True)[1]


class Tiled(nn.Module):
    """x @ weight.T + bias by a tiled copy of the weight as it is now; without a gradient.

    Args:
        weight: [out, in], bfloat16 on a CPU.
        bias: [out] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.bias: Tensor | None = None if bias is None else bias.detach()
        self.tiled = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self.twice = False
        shape = (weight.shape[0], weight.shape[1])
        if shape not in _known:
            _known[shape] = self._uneven(*shape)
            if set(_known[shape]) - {1}:
                log.warning(
                    "tiles: products of %s rows have bits of their own here; near ties, drafts may change tokens",
                    ", ".join(map(str, _known[shape])),
                )
        self.twice = _known[shape] == [1]

    @classmethod
    def of(cls, linears: Sequence[nn.Linear]) -> "Tiled":
        """One product in place of several of the same input, their outputs side by side."""
        weight = torch.cat([one.weight.detach() for one in linears]) if len(linears) > 1 else linears[0].weight
        if all(one.bias is None for one in linears):
            return cls(weight)
        return cls(weight, torch.cat([_bias(one) for one in linears]))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]; a row has the same bits beside any others, or alone."""
        if self.twice and x.numel() == x.shape[-1]:
            return self._product(x.reshape(1, -1).expand(2, -1).contiguous())[0].view(*x.shape[:-1], -1)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        made: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.tiled, self.bias, "none", [], "")
        return made

    @torch.no_grad()
    def _uneven(self, outputs: int, inputs: int) -> list[int]:
        """How many rows at a time are multiplied otherwise than many: of long rows one, which oneDNN sums in parts."""
        rows = max(2, min(64, TRIED // outputs))
        x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0)).bfloat16()
        whole = self(x)
        parted = {size: torch.cat([self(part) for part in x.split(size)]) for size in SIZES if size < rows}
        return [size for size, found in parted.items() if not torch.equal(found, whole)]


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()


def linears(module: nn.Module) -> list[nn.Linear]:
    return [one for one in module.modules() if isinstance(one, nn.Linear)]


def in_tiles(module: Module) -> Module:
    """The same module with a tiled copy in place of every linear map, and a kernel for every norm, all else shared.

    Where memory lacks it is the module as it is.
    """
    needed = sum(one.weight.nbytes for one in linears(module))
    if reason := why_no_room(needed):
        log.warning("tiles: off for a %s, %s", type(module).__name__, reason)
        return module
    log.info("tiles: a %s, %.2f GB beside its weights", type(module).__name__, needed / 1e9)
    return _in_tiles(module)


def _in_tiles(module: Module) -> Module:
    made = copy.copy(module)
    made._modules = {name: child and _tiled(child) for name, child in module._modules.items()}
    return made


def _tiled(child: nn.Module) -> nn.Module:
    if type(child) is nn.Linear:
        return Tiled(child.weight, child.bias)
    if type(child) is nn.RMSNorm and child.eps is not None and kernels.missing() is None:
        return TiledNorm(child.weight, child.eps)
    return _in_tiles(child)
