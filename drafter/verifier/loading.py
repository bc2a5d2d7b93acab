"""From what a user names as the verifier to a model of transformers and its tokenizer."""

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from drafter.verifier.conversion import resolve

# What code and files of other people's making raise: which of these depends on the family.
FOREIGN = (
    *(OSError, ValueError, ImportError, LookupError, AttributeError, TypeError, RuntimeError, AssertionError),
    StrictDataclassError,
)


def load_model(source: str, dtype: torch.dtype | None, device: str, layers: bool = True) -> tuple[Any, Any]:
    """A causal LM of transformers and its tokenizer.

    Args:
        dtype: of the weights; None for the stored one.
        layers: without them, only embedding, final norm and head are read; the config says how many there are.
    Raises:
        ValueError: the source can't be found, or transformers can't make a causal LM of it.
    """
    where = resolve(source)
    try:
        config = AutoConfig.from_pretrained(where)
        text = config.get_text_config()
        depth, kinds = text.num_hidden_layers, getattr(text, "layer_types", None)
        if not layers:
            text.num_hidden_layers = 0
            if kinds:
                text.layer_types = []
        model = AutoModelForCausalLM.from_pretrained(where, config=config, dtype=dtype).to(device)
        if not layers:
            text = model.config.get_text_config()
            text.num_hidden_layers = depth
            if kinds:
                text.layer_types = kinds
        return model, AutoTokenizer.from_pretrained(where)
    except FOREIGN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"verifier.source={source!r}: can't be loaded as a causal LM ({reason}); "
            "name a hub id, a directory or a GGUF file of one"
        ) from error
