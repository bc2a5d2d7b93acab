"""The shape of a block-diffusion drafter: its config, and the one that goes with a verifier."""

import logging
from collections.abc import Sequence
from typing import Any

from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from drafter.layouts import CANONICAL
from drafter.layouts.rope import lost_of, rope_of
from drafter.verifier import VerifierHead
from drafter.verifier.head import one_layer

log = logging.getLogger(__name__)


class BlockDiffusionConfig(Qwen3Config):
    """Qwen3's fields plus those that engines read of a DFlash drafter.

    Args:
        block_size: slots of a block, the anchor included.
        num_target_layers: depth of the verifier.
        dflash_config: `mask_token_id`, and `target_layer_ids` (0-based; a tap is the output of that layer).
        is_causal: whether a slot sees only the slots before it; None where that holds for sliding layers alone.
        final_logit_softcapping: of the verifier's head, which makes the logits, cap and all; None: not stated.
    """

    block_size: int = 16
    num_target_layers: int = 0
    dflash_config: dict | None = None
    is_causal: bool | None = False
    final_logit_softcapping: float | None = None


EPSILONS = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon")  # families' names


def evenly_spaced(num_layers: int, count: int) -> list[int]:
    """DFlash's choice of tap layers: `count` layers from 1 to num_layers − 3.

    Raises:
        ValueError: there are fewer than that.
    """
    if count == 1:
        return [num_layers // 2]
    if count > num_layers - 3:
        most = max(1, num_layers - 3)
        raise ValueError(f"drafter.num_taps={count}: the verifier has room for {most}; lower it or name tap_layers")
    return [round(1 + i * (num_layers - 4) / (count - 1)) for i in range(count)]


def sizes_of(config: Any) -> dict[str, int]:
    """Sizes that a drafter takes from the text config of its verifier; where layers differ, from the last one's.

    Raises:
        ValueError: the verifier has none to take: no layer of it attends, or its rows have no longest.
    """
    config = one_layer(config)
    for name in ("num_attention_heads", "max_position_embeddings"):
        if getattr(config, name, None) is None:
            raise ValueError(
                f"verifier: a {type(config).__name__} names no {name}, which a drafter takes; choose another"
            )
    heads = config.num_attention_heads
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
    }


def config_for(
    verifier: VerifierHead,
    *,
    num_layers: int,
    block_size: int,
    tap_layers: Sequence[int],
    mask_token_id: int,
    **sizes: Any,
) -> BlockDiffusionConfig:
    """The drafter's config for a verifier: the same width, heads and rotation, in Qwen3 terms.

    Raises:
        ValueError: a field does not fit the verifier.
    """
    theirs = verifier.config
    verifier.check_taps(tap_layers)
    vocabulary = verifier.head.shape[0]
    if not 0 <= mask_token_id < vocabulary:
        raise ValueError(f"drafter.mask_token_id={mask_token_id}: must be an id of the verifier, 0 to {vocabulary - 1}")
    if mask_token_id in verifier.stop_ids:
        raise ValueError(f"drafter.mask_token_id={mask_token_id}: ends answers; choose an id that text never uses")
    if lost := lost_of(theirs):
        log.info("the drafter rotates whole heads by the verifier's base alone, not by its %s", lost)
    eps = next((value for name in EPSILONS if (value := getattr(theirs, name, None))), 1e-6)
    return BlockDiffusionConfig(
        architectures=CANONICAL.fixed["architectures"],
        vocab_size=vocabulary,
        **sizes_of(theirs),
        num_hidden_layers=num_layers,
        hidden_act="silu",
        rms_norm_eps=eps,
        max_position_embeddings=theirs.max_position_embeddings,
        rope_parameters=rope_of(theirs),
        layer_types=["full_attention"] * num_layers,
        tie_word_embeddings=False,
        final_logit_softcapping=verifier.output.softcap,
        block_size=block_size,
        num_target_layers=verifier.num_layers,
        dflash_config={"mask_token_id": mask_token_id, "target_layer_ids": list(tap_layers)},
        **sizes,
    )
