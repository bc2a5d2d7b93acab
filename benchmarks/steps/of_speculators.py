"""The step of speculators' DFlash trainer, in its own environment: `python of_speculators.py`.

Its model and metrics as its trainer calls them, with SDPA (FlexAttention has no gradient on a CPU) and cross-entropy;
the anchors are given instead of drawn. It scores against the verifier's argmax, and `states` make that the next token.
"""

from collections.abc import Callable
from typing import Any

import torch
from speculators.losses import resolve_loss_config
from speculators.models.dflash import DFlashSpeculatorConfig, core
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3Config
from turns import serve, weights_of


def make(settings: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[], Tensor]]:
    layers = Qwen3Config(
        **{name: settings[name] for name in settings["shape"]},
        rope_theta=settings["rope_theta"],
        rope_parameters={"rope_type": "default", "rope_theta": settings["rope_theta"]},
        rms_norm_eps=settings["rms_norm_eps"],
        layer_types=["full_attention"] * settings["num_hidden_layers"],
        attn_implementation="sdpa",
    )
    config = DFlashSpeculatorConfig(
        transformer_layer_config=layers,
        draft_vocab_size=settings["vocab_size"],
        block_size=settings["block_size"],
        mask_token_id=settings["mask_token_id"],
        aux_hidden_state_layer_ids=[one + 1 for one in settings["target_layer_ids"]],
    )
    model = core.DFlashDraftModel(config)
    heads = {name: tensors["head"] for name in ("lm_head.weight", "verifier_lm_head.weight")}
    ones = {"verifier_norm.weight": torch.ones(settings["hidden_size"])}
    model.load_state_dict(weights_of(tensors) | heads | ones | {"embed_tokens.weight": tensors["embedding"]})
    model.to(settings["device"])
    (anchors,) = tensors["anchors"]
    core.select_anchors = lambda *_: (anchors, torch.ones_like(anchors, dtype=torch.bool))
    given = {
        "hidden_states": tensors["taps"],
        "input_ids": tensors["ids"],
        "loss_mask": tensors["supervised"].float(),
        "verifier_last_hidden_states": tensors["states"],
        "document_ids": torch.zeros_like(tensors["ids"]),
        "max_anchors": settings["anchors"],
        "gamma": settings["decay"],
        "loss_config": resolve_loss_config("ce", "eager"),
    }
    return list(model.parameters()), lambda: model(**given)[1]


serve(make)
