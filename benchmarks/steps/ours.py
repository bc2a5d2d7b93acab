"""Our step: `python ours.py split`; or in the plain way, `plain`: one dense mask, and the logits of all slots."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from turns import serve, weights_of

from drafter.blocks import slot_ids, slot_labels
from drafter.models import BlockDiffusionConfig, BlockDiffusionDrafter
from losses import BlockScores, DecayedCE, Losses, score_blocks


def make(settings: dict[str, Any], tensors: dict[str, Tensor], way: str) -> BlockDiffusionDrafter:
    """The drafter, with the weights that are given."""
    config = BlockDiffusionConfig(
        **{name: settings[name] for name in (*settings["shape"], "block_size", "rms_norm_eps")},
        layer_types=["full_attention"] * settings["num_hidden_layers"],
        rope_parameters={"rope_type": "default", "rope_theta": settings["rope_theta"]},
        dflash_config={name: settings[name] for name in ("mask_token_id", "target_layer_ids")},
    )
    drafter = BlockDiffusionDrafter(config).to(settings["device"])
    drafter.load_state_dict(weights_of(tensors))
    drafter.attention = {"plain": "eager"}.get(way, way)
    return drafter


def loss(drafter: BlockDiffusionDrafter, settings: dict[str, Any], tensors: dict[str, Tensor], way: str) -> Tensor:
    """Cross-entropy that decays over the slots, its weighted mean."""
    ids, anchors, supervised, head = (tensors[name] for name in ("ids", "anchors", "supervised", "head"))
    size = settings["block_size"]
    block = tensors["embedding"][slot_ids(ids, anchors, size, settings["mask_token_id"])]  # [B, A, K, D]
    hidden = drafter(block, tensors["taps"], anchors)[:, :, 1:]  # [B, A, G, D]
    used = torch.ones_like(anchors, dtype=torch.bool)
    labels, valid = slot_labels(ids, supervised.bool(), anchors, used, size)  # [B, A, G]
    if way == "plain":
        logits = hidden @ head.T  # [B, A, G, V]
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
        scores = BlockScores(nll.view_as(labels), logits.argmax(-1) == labels, valid)
    else:
        head = head.to(torch.bfloat16) if settings["precision"] == "bfloat16" else head
        scores = score_blocks(hidden, head, labels, valid, settings["chunk_size"])
    return objective(settings["decay"])(scores)[0]


def objective(decay: float) -> Losses:
    made = Losses(decayed_ce=DecayedCE(decay_slots=decay))
    for name in made.active:
        if name != "decayed_ce":
            getattr(made, name).weight = None
    return made


if __name__ == "__main__":
    (way,) = sys.argv[1:]

    def made(settings: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[list[Tensor], Callable[[], Tensor]]:
        drafter = make(settings, tensors, way)
        return list(drafter.parameters()), lambda: loss(drafter, settings, tensors, way)

    serve(made)
