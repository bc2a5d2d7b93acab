"""A small model cut out of a large one: some of its layers, with its embedding, its final norm and its head."""

import copy
import re
from typing import Any

import torch
from transformers import AutoModelForCausalLM

LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..*)")


def spread(layers: int, of: int) -> list[int]:
    """So many of the layers 0 to `of` - 1, evenly spaced; the first and the last where there are two.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= layers <= of:
        raise ValueError(f"pair.layers={layers}: must lie between 1 and the verifier's {of}")
    return [round(at * (of - 1) / max(1, layers - 1)) for at in range(layers)]


def cut_layers(model: Any, layers: int) -> Any:
    """A causal LM of transformers with `layers` of another one's layers, float32, copied; the other stays as it is.

    Raises:
        ValueError: it has not so many, or its layers do not stand in one list.
    """
    config = copy.deepcopy(model.config)
    kept = spread(layers, config.num_hidden_layers)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept]
    config._attn_implementation = "sdpa"
    small = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {}
    for name, value in model.state_dict().items():
        if (found := LAYER.fullmatch(name)) is None:
            weights[name] = value
        elif int(found[2]) in kept:
            weights[f"{found[1]}{kept.index(int(found[2]))}{found[3]}"] = value
    try:
        small.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"pair.layers={layers}: this model can't be cut ({reason}); name a drafter instead") from None
    return small
