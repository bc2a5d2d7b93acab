"""Where a drafter's weights start: at random, in the verifier's own last layers, or in an earlier drafter."""

from typing import Any

import torch
from torch import Tensor, nn

from drafter.models.block_config import BlockDiffusionConfig
from drafter.models.block_diffusion import BlockDiffusionDrafter
from drafter.verifier import Verifier


@torch.no_grad()
def start_from_verifier(drafter: BlockDiffusionDrafter, verifier: Verifier) -> None:
    """Copy the verifier's last layers into the drafter, and open the taps so that they work at once.

    The tap projection passes the last tap through unchanged, and the context norm is the first copied layer's input
    norm: the injected keys and values are then those that the copied layer itself would make. Where the verifier has no
    query and key norms, each head's norm gets the gain that keeps the projection's typical size: its root mean square
    for white input.

    Raises:
        ValueError: the verifier's layers are of another shape or kind than the drafter's.
    """
    count = len(drafter.layers)
    if count > verifier.num_layers:
        raise ValueError(
            f"drafter.num_layers={count}: the verifier has only {verifier.num_layers}; start: random takes any"
        )
    if verifier.config.hidden_act != "silu" if hasattr(verifier.config, "hidden_act") else True:
        raise ValueError("drafter.start='verifier': its layers are no SiLU-gated ones; use drafter.start=random")
    sources: list[Any] = list(verifier.layers)[-count:]
    for layer, source in zip(drafter.layers, sources, strict=True):
        _copy(layer, source)
    width = drafter.config.hidden_size
    drafter.fc.weight.zero_()
    drafter.fc.weight[:, -width:].fill_diagonal_(1.0)
    drafter.hidden_norm.weight.copy_(sources[0].input_layernorm.weight)
    drafter.norm.weight.copy_(verifier.final_norm)


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
    gain = theirs["input_layernorm.weight"].float()
    for name, weight in layer.named_parameters():
        if name in theirs:
            if theirs[name].shape != weight.shape:
                raise ValueError(
                    f"drafter.start='verifier': {name} is {list(theirs[name].shape)} in the verifier and "
                    f"{list(weight.shape)} in the drafter; use drafter.start=random"
                )
            weight.copy_(theirs[name])
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.fill_(_typical_size(theirs[name.replace("_norm", "_proj")].float(), gain))
        else:
            raise ValueError(f"drafter.start='verifier': its layers have no {name}; use drafter.start=random")


def _typical_size(projection: Tensor, gain: Tensor) -> Tensor:
    """Root mean square of `projection` applied to white input of unit size times `gain`."""
    return (projection * gain).square().sum(1).mean().sqrt()
