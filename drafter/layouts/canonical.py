"""The layout of the published DFlash drafters, which vLLM, SGLang and SpecForge read.

Facts: z-lab/dflash `dflash/model.py`; vllm 0.33.0 `model_executor/models/qwen3_dflash.py`; sglang 0.5.23
`srt/speculative/dflash_utils.py`. Both engines take a layer that slides for causal, unless `is_causal` says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drafter.layouts.base import FACTS, Layout

NESTED = ("mask_token_id", "target_layer_ids")


@dataclass(frozen=True)
class Canonical(Layout):
    """Says causality twice, for all layers; or not at all, which leaves it to the engines' rule for each layer."""

    def expected(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        causal = facts.get("is_causal")
        return super().expected(facts) | ({} if causal is None else {"dflash_config.causal": causal})

    def write(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        config = super().write(facts)
        if config["is_causal"] is None:
            del config["is_causal"]
        return config


CANONICAL = Canonical(
    name="canonical",
    fixed={
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "dflash_config.sample_from_anchor": False,
    },
    places={fact: f"dflash_config.{fact}" if fact in NESTED else fact for fact in FACTS},
)
