"""Where a drafter's weights start: at random, in the verifier's own last layers, or in an earlier drafter."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from drafter.attention.sdpa import attend, visible
from drafter.layouts.rope import lost_of
from drafter.models.block_config import BlockDiffusionConfig
from drafter.models.block_diffusion import BlockDiffusionDrafter
from drafter.verifier import Verifier

LENGTH = 4  # tokens
NEAR, NEAR_ROUNDED = 0.03, 0.3  # how far from the verifier's a layer's work may be, by float32 and by half precision


@torch.no_grad()
def start_from_verifier(drafter: BlockDiffusionDrafter, verifier: Verifier) -> None:
    """Copy the verifier's last layers into the drafter, and open the taps so that they work at once.

    The tap projection passes the last tap through unchanged, and the context norm is the first copied layer's input
    norm: the injected keys and values are then those that the copied layer itself would make. Where the verifier has no
    query and key norms, each head's norm gets the gain that keeps the projection's typical size: its root mean square
    for white input. Those norms aside, each copied layer is run beside the verifier's and must do the same.

    Raises:
        ValueError: the verifier's layers are of another shape or kind than the drafter's.
    """
    count = len(drafter.layers)
    if count > verifier.num_layers:
        raise ValueError(
            f"drafter.num_layers={count}: the verifier has only {verifier.num_layers}; start: random takes any"
        )
    if lost := lost_of(verifier.config):  # few tokens may not show it
        raise _refused(f"its layers rotate otherwise ({lost})")
    sources: list[Any] = list(verifier.layers)[-count:]
    for layer, source in zip(drafter.layers, sources, strict=True):
        _copy(layer, source)
    _compare(drafter, verifier)
    width = drafter.config.hidden_size
    drafter.fc.weight.zero_()
    drafter.fc.weight[:, -width:].fill_diagonal_(1.0)
    drafter.hidden_norm.weight.copy_(sources[0].input_layernorm.weight)
    drafter.norm.weight.copy_(verifier.final_norm)


def kept_of(verifier: Verifier) -> dict[str, bool]:
    """Fields of a drafter's config without which a start from the verifier's layers would lose a part of them."""
    names = dict(verifier.layers[-1].named_parameters())
    return {"attention_bias": any(name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")) for name in names)}


def adopt(drafter: BlockDiffusionDrafter, shape: BlockDiffusionConfig) -> None:
    """Let an earlier drafter go on under a recipe's shape: its block size and mask token may change, no weight may.

    Raises:
        ValueError: the recipe asks for other layers or taps.
    """
    config = drafter.config
    theirs = {"num_layers": config.num_hidden_layers, "tap_layers": list(drafter.tap_layers)}
    nested = shape.dflash_config or {}
    ours = {"num_layers": shape.num_hidden_layers, "tap_layers": list(nested["target_layer_ids"])}
    for name, value in theirs.items():
        if ours[name] != value:
            raise ValueError(
                f"drafter.{name}={ours[name]}: the drafter to start from has {value}; set drafter.{name}={value}"
            )
    config.block_size, config.dflash_config = shape.block_size, dict(nested)


def _copy(layer: nn.Module, source: nn.Module) -> None:
    theirs = {name: weight.detach() for name, weight in source.named_parameters()}
    ours = dict(layer.named_parameters())
    if lost := [name for name in theirs if name not in ours]:
        raise _refused(f"its layers have {lost[0]}, which the drafter's have not")
    for name, weight in ours.items():
        if name in theirs:
            if theirs[name].shape != weight.shape:
                raise _refused(
                    f"{name} is {list(theirs[name].shape)} in the verifier and {list(weight.shape)} in the drafter"
                )
            weight.copy_(theirs[name])
        elif name.endswith(("q_norm.weight", "k_norm.weight")) and "input_layernorm.weight" in theirs:
            gain = theirs["input_layernorm.weight"].float()
            weight.fill_(_typical_size(theirs[name.replace("_norm", "_proj")].float(), gain))
        elif name.endswith("_proj.bias"):
            weight.zero_()
        else:
            raise _refused(f"its layers have no {name}")


def _compare(drafter: BlockDiffusionDrafter, verifier: Verifier) -> None:
    """Raise a ValueError unless each copied layer does to a few tokens what the verifier's does, causally.

    Positions rotated in another order, scaled residuals, another activation: no name or shape of a weight tells.
    """
    last = verifier.num_layers - 1
    first = max(0, last - len(drafter.layers))  # of the layers whose outputs are looked at
    ids = ((1 + 7919 * torch.arange(LENGTH, device=verifier.device)) % len(verifier.head))[None]  # [1, S]
    hidden = verifier.taps(ids, range(first, last + 1)).float().unflatten(-1, (-1, drafter.config.hidden_size))
    start = torch.zeros(1, dtype=torch.long, device=ids.device)
    mask = visible(start, LENGTH, LENGTH, causal=True, window=None)
    near = NEAR if verifier.dtype is torch.float32 else NEAR_ROUNDED
    rotary = copy.deepcopy(drafter.rotary_emb).to(verifier.device)
    has_norms = any("q_norm" in name for name, _ in verifier.layers[-1].named_parameters())
    for index, layer in enumerate(list(drafter.layers)[first - last :]):
        layer = copy.deepcopy(layer).to(verifier.device, torch.float32)
        if not has_norms:
            layer.self_attn.q_norm = layer.self_attn.k_norm = nn.Identity()
        before, after = hidden[:, :, index], hidden[:, :, index + 1]  # [1, S, D] both
        rope = rotary(before, torch.arange(LENGTH, device=ids.device)[None])
        got = layer(before, rope, partial(_attend, mask, layer.self_attn.scale))
        if not (got - after).norm() <= near * (after - before).norm():
            raise _refused("its layers do something else with the same weights (positions, scales, or activation)")


def _attend(mask: Tensor | None, scale: float, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attend(query, key, value, mask, scale)


def _refused(why: str) -> ValueError:
    return ValueError(f"drafter.start='verifier': {why}; use drafter.start=random")


def _typical_size(projection: Tensor, gain: Tensor) -> Tensor:
    """Root mean square of `projection` applied to white input of unit size times `gain`."""
    return (projection * gain).square().sum(1).mean().sqrt()
