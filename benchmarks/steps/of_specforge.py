"""The step of SpecForge's DFlash trainer, in its own environment: `python of_specforge.py`.

Its model and objective as its trainer builds them, with SDPA (FlexAttention has no gradient on a CPU); the anchors are
given instead of drawn.
"""

from collections.abc import Callable
from typing import Any

import torch
from specforge.algorithms.common.dflash_family_model import OnlineDFlashModel
from specforge.modeling.draft.dflash import DFlashDraftModel
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3Config
from turns import serve, weights_of


def make(settings: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[], Tensor]]:
    config = Qwen3Config(
        **{name: settings[name] for name in settings["shape"]},
        rope_theta=settings["rope_theta"],
        rope_parameters={"rope_type": "default", "rope_theta": settings["rope_theta"]},
        rms_norm_eps=settings["rms_norm_eps"],
        layer_types=["full_attention"] * settings["num_hidden_layers"],
        attn_implementation="sdpa",
    )
    config.block_size, config.num_target_layers = settings["block_size"], settings["num_target_layers"]
    config.dflash_config = {name: settings[name] for name in ("mask_token_id", "target_layer_ids")}
    drafter = DFlashDraftModel(config)
    drafter.load_state_dict(weights_of(tensors))
    vocabulary, width = tensors["head"].shape
    head, embedding = torch.nn.Linear(width, vocabulary, bias=False), torch.nn.Embedding(vocabulary, width)
    head.weight, embedding.weight = (torch.nn.Parameter(tensors[name], False) for name in ("head", "embedding"))
    model = OnlineDFlashModel(
        drafter,
        head,
        embedding,
        settings["mask_token_id"],
        settings["block_size"],
        attention_backend="sdpa",
        num_anchors=settings["anchors"],
        loss_decay_gamma=settings["decay"],
    ).to(settings["device"])
    anchors = tensors["anchors"]
    model._sample_anchor_positions = lambda *_: (anchors, torch.ones_like(anchors, dtype=torch.bool))
    given = tensors["ids"], tensors["taps"], tensors["supervised"].float()
    return list(drafter.parameters()), lambda: model(*given)[0]


serve(make)
