"""The ends of a causal language model without its layers: embedding, final norm and head, out of their shards."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from drafter.verifier.conversion import resolve
from drafter.verifier.loading import refusing
from drafter.verifier.shards import BLOCK, Checkpoint


def load_ends(source: str, dtype: torch.dtype | None, device: str) -> tuple[Any, Any]:
    """A causal LM of no layers, whose config says how many there are, and its tokenizer.

    One tensor is in memory at a time beside those that are kept, and a shard that holds layers alone need not be there.

    Args:
        dtype: of the weights; None for the stored one, the widest where they differ.
    Raises:
        ValueError: the source can't be found, one of its ends is missing, or transformers can't make a causal LM of it.
    """
    where = resolve(source)
    with refusing(source):
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        asked = getattr(config, "quantization_config", None) or {}
        if asked:
            del config.quantization_config  # what is read is scaled here
        text = config.get_text_config()
        depth, kinds = text.num_hidden_layers, vars(text).get("layer_types")
        text.num_hidden_layers = 0
        if kinds:
            text.layer_types = []
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        wanted = {_end(name) for name in empty.state_dict()}
        checkpoint = Checkpoint(where, tuple(asked.get("weight_block_size") or BLOCK))
        state: dict[str, Tensor] = {}
        for name in checkpoint:
            if _end(name) in wanted and not any(word.isdigit() for word in name.split(".")):  # of no numbered layer
                state[name] = checkpoint.read(name, dtype)
        stored = dtype or max((one.dtype for one in state.values()), key=lambda one: one.itemsize, default=None)
        model, told = type(empty).from_pretrained(
            None, config=config, state_dict=state, dtype=stored, output_loading_info=True
        )
        if told["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(told['missing_keys']))}")
        with suppress(OSError):  # without one, what the config says stays
            model.generation_config = GenerationConfig.from_pretrained(where)
        text = model.config.get_text_config()
        text.num_hidden_layers = depth
        if kinds:
            text.layer_types = kinds
        return model.to(device), AutoTokenizer.from_pretrained(where, trust_remote_code=False)


def _end(name: str) -> str:
    """The last two words of a tensor's name: what stands before them differs between checkpoints of one model."""
    return ".".join(name.split(".")[-2:])
