"""Checkpoints whose weights are in eight bits: read with their scales and run as plain ones, on any device.

Activations are not rounded, which an engine that multiplies in eight bits does: its laws differ by that rounding.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from drafter.verifier.shards import BLOCK, SCALES, Checkpoint

METHODS = ("fp8", "fbgemm_fp8", "modelopt", "compressed-tensors")  # some of which also pack fewer bits: refused by name


def in_eight_bits(where: str) -> bool:
    """Whether the config of a directory or hub id says that its weights are stored so."""
    config, _ = PreTrainedConfig.get_config_dict(where)
    return (config.get("quantization_config") or {}).get("quant_method") in METHODS


def load_eight_bits(where: str, dtype: torch.dtype | None) -> Any:
    """A causal LM with every weight times its scale, in `dtype`; None: bfloat16.

    Raises:
        ValueError: a scale is missing, a weight is stored in another way, or the model lacks one.
    """
    config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    block = tuple(config.quantization_config.get("weight_block_size") or BLOCK)
    del config.quantization_config
    checkpoint = Checkpoint(where, block)
    if not any(name.endswith(SCALES) for name in checkpoint):
        raise ValueError("its config says that its weights are quantised, and none has a scale")
    dtype = dtype or torch.bfloat16
    state = {name: checkpoint.read(name, dtype) for name in checkpoint if not name.endswith(SCALES)}
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    model, told = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := told[what]:
            raise ValueError(f"{what.replace('_', ' ')} of its weights: {', '.join(sorted(map(str, wrong)))}")
    return model
